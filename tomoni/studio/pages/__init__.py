"""One module a page: what it shows and the API behind it."""

from tomoni.studio.pages import chat, entrance, home, judge, learn, models

ROUTERS = (entrance.router, home.router, chat.router, judge.router, learn.router, models.router)
