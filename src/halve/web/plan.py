"""Data of the page Plan."""

from fastapi import APIRouter

router = APIRouter(prefix="/plan")
