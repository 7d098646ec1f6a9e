"""One module a page: what it shows and the API behind it."""

from tomoni.studio.pages import (
    chat,
    data,
    entrance,
    guideline,
    home,
    judge,
    learn,
    models,
    people,
    prompts,
    rounds,
    runs,
    said,
)

ROUTERS = tuple(
    module.router
    for module in (entrance, home, chat, judge, learn, rounds, prompts, guideline, data, said, runs, people, models)
)
