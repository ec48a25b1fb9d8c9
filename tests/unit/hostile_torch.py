"""Attack files: what must never be taken for a torch checkpoint, each with words of the reason that has to be given."""

import pickle
import struct
import zipfile
from io import BytesIO

FLOATS = bytes(range(24))


class Call:
    """What unpickles as a call of ``function``: the classic attack."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def archive(pickled, data=FLOATS, *, folder="archive", method=zipfile.ZIP_STORED, more=()):
    """A zip archive as torch writes one: ``pickled`` and one storage, then the records ``more``."""
    out = BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        file.writestr(f"{folder}/data.pkl", pickled)
        file.writestr(f"{folder}/data/0", data)
        for name, content in more:
            file.writestr(name, content)
    return out.getvalue()


def text(string):
    raw = string.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    return b"J" + struct.pack("<i", value)


def numbers(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(kind="FloatStorage", key="0", count=6, label="storage", module="torch"):
    return b"(" + text(label) + f"c{module}\n{kind}\n".encode() + text(key) + text("cpu") + number(count) + b"tQ"


HOOKS = b"ccollections\nOrderedDict\n)R"


def tensor(where=None, *, offset=0, shape=(2, 3), strides=(3, 1), end=b"\x89" + HOOKS):
    arguments = (where or storage()) + number(offset) + numbers(*shape) + numbers(*strides) + end
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def state(**tensors):
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in tensors.items()) + b"u."


WHOLE = archive(state(a=tensor()))


def edited(content, at, new):
    return content[:at] + new + content[at + len(new) :]


CENTRAL = WHOLE.index(b"PK\1\2")
END = WHOLE.index(b"PK\5\6")


def calling(function, *arguments, protocol=2):
    return archive(pickle.dumps({"a": Call(function, *arguments)}, protocol))


def attacks(canary):
    """The attack files by name; those that run code would create the file ``canary``."""
    import os
    import subprocess

    command = f"touch {canary}"
    return {
        # code
        "os.system": (calling(os.system, command), r"refused: .*posix\.system"),
        "eval": (calling(eval, f"open({str(canary)!r}, 'w')"), r"refused: it names \S*\.eval"),
        "exec": (calling(exec, f"open({str(canary)!r}, 'w')"), r"refused: it names \S*\.exec"),
        "open": (calling(open, str(canary), "w"), "refused: it names io.open|refused: it names _io.open"),
        "a process": (calling(subprocess.Popen, command), r"refused: it names (subprocess|commands)\.Popen"),
        "protocol 4": (calling(os.system, command, protocol=4), "refused: instruction"),
        "a known module's function": (
            archive(b"\x80\x02ctorch._utils\n_import_dotted_name\n."),
            "refused: it names torch",
        ),
        "a class of torch": (archive(b"\x80\x02ctorch\nload\n."), r"refused: it names torch\.load"),
        "an instance (i)": (archive(f"(S'{command}'\nios\nsystem\n.".encode()), "refused: instruction"),
        "an instance (o)": (archive(b"(cposix\nsystem\n" + text(command) + b"o."), r"refused: it names posix\.system"),
        "a new object": (archive(b"ccollections\nOrderedDict\n)\x81."), "refused: instruction"),
        "an extension": (archive(b"\x82\x01."), "refused: instruction"),
        "a name built from text": (archive(text("posix") + text("system") + b"\x93."), "refused: instruction"),
        "a storage that is a call": (archive(text(command) + b"Q."), "a storage that is not described"),
        "a tensor of a call": (
            archive(state(a=b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nTensor\nctorch\nTensor\n)}tR")),
            "refused: calls torch",
        ),
        "a class called": (archive(b"ctorch\nTensor\n)R."), r"refused: calls torch\.Tensor"),
        "a bare pickle": (pickle.dumps(Call(os.system, command), 2), "refused: it is a bare pickle"),
        # instructions that make no sense
        "nothing": (b"", "not a file that torch.save"),
        "no pickle": (archive(b""), "ends early"),
        "an empty stack": (archive(b"."), "empty stack"),
        "a mark too few": (archive(b"t."), "empty stack"),
        "no memory": (archive(b"h\5."), "recalls 5"),
        "memory of nothing": (archive(b"q\5."), "remembers what is not there"),
        "an odd dict": (archive(b"}(" + text("a") + b"u."), "puts 1 values"),
        "a value into a list": (archive(b"]" + text("a") + b"Ns."), "puts 2 values into a value of type list"),
        "a dict appended to": (archive(b"}Na."), "appends to a dict"),
        "a key that is a number": (archive(b"}K\1Ns."), "not a string"),
        "a key that is a tuple": (archive(b"}" + b")" + b"\x85" * 500 + b"Ns."), "not a string"),
        "a name twice": (archive(b"\x80\x02}(" + (text("a") + tensor()) * 2 + b"u."), "'a' appears twice"),
        "a call of a number": (archive(b"K\1)R."), "calls what is no function"),
        "attributes of a number": (archive(b"K\1Nb."), "attributes of what has none"),
        "bad text": (archive(b"X\2\0\0\0\xff\xfe."), "not UTF-8"),
        "text without an end": (archive(b"X\xff\xff\xff\xffabc"), "ends early"),
        "a name without an end": (archive(b"c" + b"a" * 5000), "does not end"),
        "4 GB promised": (archive(b"r\xff\xff\xff\xff."), "remembers what is not there"),
        "5 million dicts": (archive(b"}" * 5_000_000 + b"."), "more than 4000000 instructions"),
        "17 MB": (archive(b"N" * (17 << 20) + b"."), "more than the 16777216"),
        # what is no state dict
        "a list": (archive(b"]."), "not a state dict"),
        "a tensor alone": (archive(b"\x80\x02" + tensor() + b"."), "holds a tensor, not a state dict"),
        "a name alone": (archive(b"ctorch\nTensor\n."), r"holds torch\.Tensor, not a state dict"),
        "a number in it": (archive(state(a=number(3))), "'a' is a value of type int, not a tensor"),
        "a dict in it": (archive(state(model=b"}")), "'model' is a dict, not a tensor"),
        "a name with a newline": (archive(state(**{"a\nb": tensor()})), "no tensor name"),
        "a long name": (archive(state(**{"a" * 2000: tensor()})), "no tensor name"),
        # tensors that cannot be
        "beyond the storage": (archive(state(a=tensor(offset=1))), "reaches beyond the 24 bytes"),
        "rows beyond the storage": (archive(state(a=tensor(strides=(4, 1)))), "reaches beyond the 24 bytes"),
        "a repeated number": (
            archive(state(a=tensor(shape=(1 << 20, 1 << 20), strides=(0, 0)))),
            "refused: .* repeats",
        ),
        "a negative size": (archive(state(a=tensor(shape=(-2, 3)))), "are no sizes"),
        "a negative stride": (archive(state(a=tensor(strides=(-3, 1)))), "are no sizes"),
        "a negative offset": (archive(state(a=tensor(offset=-1))), "are no sizes"),
        "a size that is text": (
            archive(state(a=tensor().replace(numbers(2, 3), b"(" + text("2") + b"t"))),
            "are no sizes",
        ),
        "more strides than sizes": (archive(state(a=tensor(strides=(3, 1, 1)))), "are no sizes"),
        "65 dimensions": (archive(state(a=tensor(shape=(1,) * 65, strides=(1,) * 65))), "65 dimensions"),
        "2^62 elements": (archive(state(a=tensor(shape=(1 << 30, 1 << 30, 4), strides=(0, 0, 0)))), "too large"),
        "a number of 2040 bits": (
            archive(state(a=tensor().replace(number(3), b"\x8a\xff" + b"\x7f" * 255))),
            "are no sizes",
        ),
        "another type": (archive(state(a=tensor(storage("QInt8Storage")))), "refused: it names torch.QInt8Storage"),
        "a dtype for a storage": (archive(state(a=tensor(storage("float8_e4m3fn")))), "which halve does not know"),
        "untyped": (archive(state(a=tensor(storage("UntypedStorage", module="torch.storage")))), "does not know"),
        "a module for a storage": (
            archive(state(a=tensor(storage(label="module")))),
            "a storage that is not described",
        ),
        "too many arguments": (
            archive(state(a=tensor(end=b"\x89" + HOOKS + b"}"))),
            r"refused: calls torch\._utils\._rebuild_tensor_v2",
        ),
        "no such storage": (archive(state(a=tensor(storage(key="7")))), "storage '7' .* is missing"),
        "a storage with a path": (archive(state(a=tensor(storage(key="../../etc/passwd")))), "is missing"),
        "a storage of another size": (archive(state(a=tensor()), FLOATS[:20]), "which has 20 bytes"),
        "a longer storage": (archive(state(a=tensor()), FLOATS + b"\0"), "which has 25 bytes"),
        # the archive
        "compressed": (archive(state(a=tensor()), method=zipfile.ZIP_DEFLATED), "compressed or encrypted"),
        "encrypted": (edited(WHOLE, CENTRAL + 8, b"\1"), "compressed or encrypted"),
        "cut off": (WHOLE[:-1], "the end of a zip archive is missing"),
        "something behind it": (WHOLE + b"\0", "the end of a zip archive is missing"),
        "an empty archive": (zipped(), "not a file that torch.save"),
        "no data.pkl": (zipped(("archive/data/0", FLOATS)), "not a state dict in one"),
        "TorchScript": (archive(state(a=tensor()), more=[("archive/constants.pkl", b"")]), "TorchScript"),
        "big-endian": (archive(state(a=tensor()), more=[("archive/byteorder", b"big")]), "big-endian"),
        "two folders": (archive(state(a=tensor()), more=[("other/x", b"")]), "not in the folder"),
        "a record twice": (twice(), "two records are called"),
        "a wrong count": (edited(WHOLE, END + 10, b"\3\0"), "promises 3 records and lists 2"),
        "a split archive": (edited(WHOLE, END + 4, b"\1\0"), "split archive"),
        "a directory outside": (edited(WHOLE, END + 16, b"\xf0\xff\xff\x7f"), "outside the file"),
        "a directory of 2 GB": (edited(WHOLE, END + 12, b"\0\0\0\x7f"), "outside the file"),
        "a damaged directory": (edited(WHOLE, CENTRAL, b"XX"), "directory of the archive is damaged"),
        "a long name in it": (edited(WHOLE, CENTRAL + 28, b"\xff\xff"), "directory of the archive is damaged"),
        "a name that is no text": (edited(WHOLE, CENTRAL + 46, b"\xff"), "not UTF-8"),
        "a 64-bit size that is missing": (edited(WHOLE, CENTRAL + 24, b"\xff" * 4), "64-bit size is missing"),
        "two sizes": (edited(WHOLE, CENTRAL + 24, b"\1"), "two sizes"),
        "a record outside": (edited(WHOLE, CENTRAL + 42, b"\xf0\xff\xff\x7f"), "outside the file"),
        "a record elsewhere": (edited(WHOLE, CENTRAL + 42, b"\1"), "not where the directory"),
        "another name where it lies": (edited(WHOLE, 30, b"b"), "another name where it lies"),
        "records that overlap": (overlapping(), "overlap"),
        "a record in the directory": (
            edited(WHOLE, CENTRAL + 20, struct.pack("<2I", END - 60, END - 60)),
            "directory|not",
        ),
    }


def zipped(*records):
    out = BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in records:
            file.writestr(name, content)
    return out.getvalue()


def twice():
    return archive(state(a=tensor()), more=[("archive/data/1", b"")]).replace(b"archive/data/1", b"archive/data/0")


def overlapping():
    """A storage, local header and all, that lies inside the pickle, behind its end."""
    header = WHOLE[WHOLE.index(b"PK\3\4", 1) : WHOLE.index(b"archive/data/0")] + b"archive/data/0"
    content = archive(state(a=tensor()) + header + FLOATS)
    directory = content.index(b"PK\1\2")
    second = content.index(b"PK\1\2", directory + 1)
    return edited(content, second + 42, struct.pack("<I", content.index(header, 1)))
