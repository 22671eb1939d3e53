"""The page at `/`, on which people see what the model does: a user's history, the list, and reasons in words.

In: the query of `GET /` (`form`). Out: HTML (`templates/page.html`), which works without a script; the one in
`static/` submits the form when a slider moves. `view` asks a `Service` that keeps no list, so that whoever looks
leaves no impressions. `words` turns reasons into sentences.
"""
