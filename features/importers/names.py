"""What shops call tables, columns and event types.

Capitals, `_`, `-` and blanks make no difference in the names of columns (`flat`).
"""

FILES = {
    "items": ("items", "item", "products", "product", "movies", "books", "news", "articles", "catalog", "catalogue"),
    "events": ("events", "event", "interactions", "ratings", "reviews", "behaviors", "clicks", "orders", "purchases",
               "transactions", "views", "log"),
    "users": ("users", "user", "customers", "members"),
    "queries": ("queries", "query", "searches", "search_queries"),
}  # fmt: skip
ALIASES = {
    "user_id": ("userid", "user", "uid", "customer_id", "customerid", "reviewerid", "visitorid", "member_id"),
    "item_id": ("itemid", "item", "iid", "product_id", "productid", "movie_id", "movieid", "book_id", "asin", "sku",
                "isbn", "article_id"),
    "timestamp": ("datetime", "time", "ts", "date", "event_time", "unixreviewtime", "created", "order_date"),
    "event_type": ("event", "action", "type", "eventtype", "behavior", "behaviour", "interaction"),
    "value": ("rating", "score", "stars", "overall", "quantity", "qty"),
    "title": ("name", "item_name", "product_name", "product_title", "movie_title", "book_title", "headline"),
    "description": ("text", "abstract", "body", "summary", "desc", "body_html"),
    "tags": ("genres", "genre", "keywords", "labels"),
    "brand": ("manufacturer", "store", "vendor", "author", "publisher"),
    "category": ("category_name", "main_category", "section", "department", "product_type"),
    "available": ("is_available", "isavailable"),
    "session_id": ("sessionid", "session"),
    "request_id": ("requestid", "impression_id"),
    "query": ("search_query", "search_term", "search", "keyword", "q"),
}  # fmt: skip
OWN_ID = ("id",)
"""What a table of items or users may call its own ID."""
QUANTITIES = ("quantity", "qty")
"""Columns of how much was bought."""
EVENT_ALIASES = {
    "addtocart": "cart", "add_to_cart": "cart", "basket": "cart", "transaction": "purchase", "buy": "purchase",
    "order": "purchase", "sale": "purchase", "purchased": "purchase", "pageview": "view", "detail": "view",
    "viewed": "view", "clicked": "click", "pv": "view", "fav": "like", "favorite": "like", "favourite": "like",
    "upvote": "like", "shown": "impression", "show": "impression", "exposure": "impression", "reply": "comment",
    "review": "comment", "repost": "share", "retweet": "share", "downvote": "dislike", "thumbs_down": "dislike",
    "not_interested": "hide", "dismiss": "hide",
}  # fmt: skip


def flat(name: str) -> str:
    """Return a name without what makes no difference."""
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")
