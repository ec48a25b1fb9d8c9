"""Other quantizers beside halve in their mode: all codes and scales. Run by `nox -s "clients(conform)"`."""


def test_codes_scales_and_checkpoints_are_theirs(measured):
    met, missed = measured("conform.py")
    assert not missed
    assert {"conform_codes_equal", "conform_checkpoints_equal"} <= set(met)
