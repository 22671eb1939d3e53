"""The routes, one module per tag of the documentation.

To add a route, write it in the module of its tag, on the router with the scope that it needs. Its
docstring is its description in `/docs`. The router of a new module goes into `ROUTERS`.
"""

from serving.api.routes import answers, changes, lists, model, page, process, scenarios

ROUTERS = (
    lists.router,
    lists.admin_router,
    changes.router,
    model.router,
    model.admin_router,
    scenarios.router,
    answers.router,
    process.open_router,
    process.router,
    page.router,
)
TAGS = [
    {
        "name": "lists",
        "description": "Recommendations, rankings, searches, and what is similar, bought together or in demand.",
    },
    {"name": "changes", "description": "What the lists go by from the next request on: events, items, users."},
    {"name": "model", "description": "The model that serves."},
    {"name": "scenarios", "description": "Named kinds of list: what they say, which are on, and what they would list."},
    {"name": "answers", "description": "Answers to questions, from a base of them."},
    {"name": "process", "description": "Health and metrics of the server process."},
]
"""What the documentation says of the tags."""
