"""Data of the page Talk: the models that answer."""

from typing import Any

from fastapi import APIRouter, Request

router = APIRouter(prefix="/talk")


@router.get("/models")
def models(request: Request) -> list[dict[str, Any]]:
    """The models of this server."""
    loaded = request.app.state.server.scheduler.models
    return [{"name": name, "engine": model.engine} for name, model in loaded.items()]
