"""Who may use the API, and how much.

A request passes these in order, and nothing of its body is read before the last:

- `callers`: identifies the caller by its key, or by its address where no key is needed (`keys`, `hosts`);
- `limits`: limits requests per second, requests in progress, and the size and time of a body;
- `scopes`: the scope that a route needs is stated with the route.
"""
