"""The route that answers questions."""

from fastapi import APIRouter, Request

from recsys.errors import RecsysError
from serving.api import schemas
from serving.api.access.scopes import ReadRoute
from serving.api.errors import NO_ANSWERS
from serving.api.routes.dependencies import ServiceWorkers
from serving.text.faq import Faq

router = APIRouter(prefix="/v1", tags=["answers"], route_class=ReadRoute)


@router.post("/answers", responses=NO_ANSWERS)
async def answers(body: schemas.AnswersRequest, workers: ServiceWorkers, request: Request) -> schemas.AnswersResponse:
    """Find the answers to a question, and say whether the best is a good one.

    Answers that are added to the server's file are found from the next request on.
    """
    faq: Faq | None = request.app.state.heads.faq
    if faq is None:
        raise RecsysError("this server has no answers; start it with `recsys serve --answers MODEL`")
    return await workers.run(_answer, faq, body)


def _answer(faq: Faq, body: schemas.AnswersRequest) -> schemas.AnswersResponse:
    answerer = faq.answerer()
    best = answerer.find([body.question], body.k)
    listed = [
        schemas.FoundAnswer(
            answer=answerer.base.answers[row], question=answerer.base.questions[row] or None, score=score
        )
        for row, score in zip(best.rows[0].tolist(), best.scores[0].tolist(), strict=True)
    ]
    probability = float(best.probability[0])
    return schemas.AnswersResponse(
        model=faq.name, answered=probability >= answerer.threshold, probability=probability, answers=listed
    )
