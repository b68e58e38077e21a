"""The search server that a good engineer writes in an afternoon: one FAISS index, one route, a thread for each request. The slow twin of ours.

serve_plain.py INDEX PORT
"""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from simclr.embed import Index

index = Index.open(sys.argv[1])
app = FastAPI()


class Ask(BaseModel):
    id: int
    k: int = 10


@app.post("/search")
def search(ask: Ask) -> list[dict[str, object]]:
    return [
        {"id": hit.id, "path": hit.path, "similarity": hit.similarity}
        for hit in index.search([ask.id], ask.k)[0]
    ]


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
