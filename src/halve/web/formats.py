"""Data of the page Formats: computed by the codecs, never by the page."""

from typing import Any

from fastapi import APIRouter

from halve.formats import info

router = APIRouter(prefix="/formats")


@router.get("")
def formats() -> list[dict[str, Any]]:
    """Every format's facts."""
    return info.describe_all().to_json()
