"""Data of the page Silicon."""

from fastapi import APIRouter

router = APIRouter(prefix="/silicon")
