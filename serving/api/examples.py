"""An answer of each operation, as the documentation shows it: those of a shop of 300 users and 200 items, shortened."""

from typing import Any

_MODEL: dict[str, Any] = {
    "model": "models:/recsys/1",
    "dataset": "simulated-shop",
    "fit_on": "train+valid",
    "metrics": {
        "ndcg@10": {"value": 0.2018, "low": 0.1571, "high": 0.2474},
        "click_auc": {"value": 0.6292, "low": 0.6292, "high": 0.6292},
    },
    "items": 200,
    "users": 271,
    "failed": {},
}
_VERSION: dict[str, Any] = {
    "name": "home",
    "version": 1,
    "on": False,
    "at": 1795947571439130,
    "definition": {
        "sources": {},
        "filters": {"category": None, "brand": None, "price": {"min": None, "max": 100.0}, "attributes": {}},
        "boosts": [],
        "pins": [{"position": 1, "item": "i000001"}],
        "promotions": [],
        "per_brand": None,
        "per_category": None,
        "diversity": 0.2,
        "value": None,
        "explore": None,
        "exclude_seen": None,
    },
    "notes": [],
}
ANSWERS: dict[str, Any] = {
    "recommend": {
        "request_id": "399cbb67b8fb4f2ea95dacc10ceaa33e",
        "user_id": "u000001",
        "model": "models:/recsys/1",
        "experiment": None,
        "arm": None,
        "items": [
            {
                "item_id": "i000026",
                "title": "Garlund Nova 22 artisan cleansing bar",
                "score": 0.5235,
                "interest": 0.8519,
                "p_click": 0.2101,
                "p_purchase": 0.2686,
                "explored": False,
                "reasons": {
                    "nearest": [
                        {"item_id": "i000026", "title": "Garlund Nova 22 artisan cleansing bar", "similarity": 1.0}
                    ],
                    "features": [
                        {"feature": "taste_category", "log_odds": 0.4775},
                        {"feature": "relative_taste", "log_odds": 0.18},
                    ],
                },
            },
            {
                "item_id": "i000005",
                "title": "Pellion Opal 42 artisan saddle",
                "score": 0.2957,
                "interest": 0.5851,
                "p_click": 0.378,
                "p_purchase": 0.09645,
                "explored": False,
                "reasons": {
                    "nearest": [{"item_id": "i000005", "title": "Pellion Opal 42 artisan saddle", "similarity": 1.0}],
                    "features": [{"feature": "taste_category", "log_odds": 0.6546}],
                },
            },
        ],
        "unknown_items": [],
        "notes": [],
        "degraded": [],
    },
    "rows": {
        "user_id": "u000001",
        "model": "models:/recsys/1",
        "rows": [
            {
                "request_id": "34b2e39a4fd34893b278ebdfb17f329d",
                "title": "Because you bought Garlund Nova 22 artisan cleansing bar",
                "item_id": "i000026",
                "event_type": "purchase",
                "items": [
                    {
                        "item_id": "i000000",
                        "title": "Hollin Sierra 88 deluxe face cream",
                        "score": 0.07733,
                        "interest": 0.3635,
                        "p_click": 0.2167,
                        "p_purchase": 0.07209,
                        "explored": False,
                        "reasons": None,
                    }
                ],
            },
            {
                "request_id": "7f52f77504d9438fa6895e21af8a94b1",
                "title": "Because you looked at Pellion Opal 42 artisan saddle",
                "item_id": "i000005",
                "event_type": "click",
                "items": [
                    {
                        "item_id": "i000056",
                        "title": "Lorimer Yonder 97 lightweight handlebar",
                        "score": 0.07303,
                        "interest": 0.3767,
                        "p_click": 0.2462,
                        "p_purchase": 0.04098,
                        "explored": False,
                        "reasons": None,
                    }
                ],
            },
        ],
        "unknown_items": [],
        "notes": [],
        "degraded": [],
    },
    "rank": {
        "request_id": "c8d2493d71b3460ebdd3a47ca687dc4f",
        "user_id": "u000001",
        "model": "models:/recsys/1",
        "experiment": None,
        "arm": None,
        "items": [
            {
                "item_id": "i000001",
                "title": "Tavik Zenith 83 clamp lamp",
                "score": 0.00649,
                "interest": 0.2038,
                "p_click": 0.1022,
                "p_purchase": 0.01467,
                "explored": False,
                "reasons": None,
            },
            {
                "item_id": "i000002",
                "title": "Ottavo Swift 7 colourful stretching strap",
                "score": 0.005546,
                "interest": 0.3106,
                "p_click": 0.1005,
                "p_purchase": 0.01103,
                "explored": False,
                "reasons": None,
            },
        ],
        "unknown_items": ["i999999"],
        "notes": [],
        "degraded": [],
    },
    "search": {
        "request_id": "79f1b4677b434265b43e7ed86041e4f7",
        "user_id": None,
        "model": "models:/recsys/1",
        "experiment": None,
        "arm": None,
        "items": [
            {
                "item_id": "i000045",
                "title": "Pascoe Delta 26 banker's lamp",
                "score": 0.01311,
                "interest": 0.6337,
                "p_click": 0.1295,
                "p_purchase": 0.02269,
                "explored": False,
                "reasons": None,
            },
            {
                "item_id": "i000037",
                "title": "Dunmar Harbour 59 rugged banker's lamp",
                "score": 0.003984,
                "interest": 0.5479,
                "p_click": 0.0732,
                "p_purchase": 0.016,
                "explored": False,
                "reasons": None,
            },
        ],
        "unknown_items": [],
        "notes": [],
        "degraded": [],
    },
    "trending": {
        "model": "models:/recsys/1",
        "items": [
            {"item_id": "i000002", "title": "Ottavo Swift 7 colourful stretching strap", "surprise": 15.71},
            {"item_id": "i000001", "title": "Tavik Zenith 83 clamp lamp", "surprise": 15.71},
        ],
    },
    "similar": {
        "item_id": "i000001",
        "model": "models:/recsys/1",
        "items": [
            {"item_id": "i000103", "title": "Lumero Terra 35 ultralight clamp lamp", "similarity": 0.6127},
            {"item_id": "i000102", "title": "Tavik Aurora 85 heavy-duty task light", "similarity": 0.5645},
        ],
    },
    "together": {
        "item_id": "i000001",
        "model": "models:/recsys/1",
        "items": [
            {"item_id": "i000045", "title": "Pascoe Delta 26 banker's lamp", "strength": 0.2082},
            {"item_id": "i000076", "title": "Jorvane Aurora 65 banker's lamp", "strength": 0.07922},
        ],
    },
    "audience": {
        "item_id": "i000001",
        "model": "models:/recsys/1",
        "users": [
            {"user_id": "u000012", "interest": 0.8214, "p_click": 0.2061, "p_purchase": 0.05902, "seen": True},
            {"user_id": "u000152", "interest": 0.7521, "p_click": 0.1864, "p_purchase": 0.03676, "seen": True},
        ],
    },
    "add_events": {"accepted": 1, "duplicates": 0, "unknown_items": []},
    "put_items": {"changed": 1, "items": 201},
    "delete_item": {"changed": 1, "items": 200},
    "put_user": {"user_id": "u000001", "attributes": {"plan": "family", "age": 41.0}, "unused": ["plan", "age"]},
    "forget_user": {"user_id": "u000001", "deleted": 6},
    "about_model": _MODEL,
    "reload_model": _MODEL,
    "list_scenarios": {"scenarios": [{"name": "home", "on": 1, "latest": 1}]},
    "get_scenario": _VERSION | {"on": True},
    "put_scenario": _VERSION,
    "delete_scenario": {"name": "home", "versions": 1},
    "switch_scenario": _VERSION | {"on": True},
    "preview_scenario": {
        "request_id": "ab744e09b34c48559236412e523d7b10",
        "user_id": "u000001",
        "model": "models:/recsys/1",
        "experiment": None,
        "arm": None,
        "items": [
            {
                "item_id": "i000001",
                "title": "Tavik Zenith 83 clamp lamp",
                "score": 0.004693,
                "interest": 0.0,
                "p_click": 0.09526,
                "p_purchase": 0.009552,
                "explored": False,
                "reasons": None,
            },
            {
                "item_id": "i000045",
                "title": "Pascoe Delta 26 banker's lamp",
                "score": 0.01087,
                "interest": 0.0,
                "p_click": 0.1237,
                "p_purchase": 0.01893,
                "explored": False,
                "reasons": None,
            },
        ],
        "unknown_items": [],
        "notes": [],
        "degraded": [],
    },
    "answers": {
        "model": "models:/answers/1",
        "answered": True,
        "probability": 0.93,
        "answers": [
            {
                "answer": "Put it into its box and bring it to any of our shops within 30 days.",
                "question": "How do I return an item?",
                "score": 0.71,
            }
        ],
    },
    "healthz": {"status": "ok"},
    "readyz": {"status": "ok", "failed": []},
    "metrics": '# HELP recsys_events_total Events accepted\n# TYPE recsys_events_total counter\nrecsys_events_total 61.0\n# HELP recsys_model 1 for the model that serves\n# TYPE recsys_model gauge\nrecsys_model{model="models:/recsys/1"} 1.0\n',
}
"""By operation id."""
