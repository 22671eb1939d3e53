"""MovieLens: ml-100k (`u.data`, `u.item`), ml-1m (`::`) and ml-latest (CSV).

In: the unpacked folder. Out: ratings as events, genres as tags, the first genre as category.
"""

from pathlib import Path

import polars as pl

from features.data.formats import scan
from features.importers.base import Imported, Importer, find_file, scan_text
from recsys.schema import DatasetInfo

GENRES_100K = [
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
]
TOP_TAGS = 10
"""Free tags kept per film of ml-latest, the most frequent ones."""

INFO = DatasetInfo(source="MovieLens (GroupLens)", licence="GroupLens terms of use; not to be redistributed")


class MovieLensImporter(Importer):
    """Tells the three layouts apart by their files."""

    name = "movielens"
    description = "MovieLens 100K, 1M or latest, the unpacked folder"

    def read(self, src: Path) -> Imported:
        ratings = find_file(src, ["u.data", "ratings.dat", "ratings.csv"], "MovieLens ratings")
        read = {"u.data": self._read_100k, "ratings.dat": self._read_1m, "ratings.csv": self._read_latest}
        return read[ratings.name](src)

    def _read_100k(self, src: Path) -> Imported:
        ratings = scan_text(src / "u.data", "\t", ["user_id", "item_id", "rating", "timestamp"])
        columns = ["item_id", "title", "released", "video_released", "url", *GENRES_100K]
        items = scan_text(find_file(src, ["u.item"], "film table"), "|", columns, latin1=True)
        flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in GENRES_100K if genre != "unknown"]
        items = items.with_columns(tags=pl.concat_list(flags).list.drop_nulls())
        users = None
        if (src / "u.user").exists():
            users = scan_text(src / "u.user", "|", ["user_id", "age", "gender", "occupation", "zip"], latin1=True)
        return self._imported(items, ratings, users, "ml-100k")

    def _read_1m(self, src: Path) -> Imported:
        ratings = scan_text(src / "ratings.dat", "::", ["user_id", "item_id", "rating", "timestamp"], latin1=True)
        path = find_file(src, ["movies.dat"], "film table")
        items = scan_text(path, "::", ["item_id", "title", "genres"], latin1=True)
        users = None
        if (src / "users.dat").exists():
            columns = ["user_id", "gender", "age", "occupation", "zip"]
            users = scan_text(src / "users.dat", "::", columns, latin1=True)
        return self._imported(items.with_columns(tags=pl.col("genres").str.split("|")), ratings, users, "ml-1m")

    def _read_latest(self, src: Path) -> Imported:
        ratings = scan(src / "ratings.csv").rename({"userId": "user_id", "movieId": "item_id"})
        items = scan(find_file(src, ["movies.csv"], "film table")).rename({"movieId": "item_id"})
        genres = pl.when(pl.col("genres") == "(no genres listed)").then(None).otherwise(pl.col("genres").str.split("|"))
        items = items.with_columns(genre_list=genres)
        if (src / "tags.csv").exists():
            used = scan(src / "tags.csv").group_by(pl.col("movieId").alias("item_id"), "tag").len()
            top = (
                used.sort("len", "tag", descending=[True, False])
                .group_by("item_id")
                .agg(pl.col("tag").head(TOP_TAGS).alias("free"))
            )
            items = items.join(top, on="item_id", how="left", maintain_order="left")
            both = pl.concat_list(pl.col("genre_list").fill_null([]), pl.col("free").fill_null([]))
        else:
            both = pl.col("genre_list").fill_null([])
        return self._imported(items.with_columns(tags=both), ratings, None, src.resolve().name)

    def _imported(self, items: pl.LazyFrame, ratings: pl.LazyFrame, users: pl.LazyFrame | None, name: str) -> Imported:
        year = pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int32)
        kept = items.select("item_id", "title", "tags", category=pl.col("tags").list.first(), year=year)
        rating = pl.col("rating").cast(pl.Float64)
        events = ratings.select(
            "user_id", "item_id", event_type=self.event_of_rating(rating), timestamp="timestamp", value=rating
        )
        return Imported(kept, events, users, INFO.model_copy(update={"name": name}))
