"""Data of the page Report."""

from fastapi import APIRouter

router = APIRouter(prefix="/report")
