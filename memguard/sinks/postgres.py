"""PostgreSQL: the store of several machines, by SQLAlchemy Core and psycopg (``pymemguard[postgres]``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memguard.errors import MissingExtra
from memguard.sinks.sql import Average, Row, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["PostgresTables"]

# A server that does not answer holds our own thread so long, and nobody else.
_CONNECT_S = 5
_STATEMENT_MS = 10_000
# Who makes the tables first holds this lock meanwhile: "memguard" in bytes, cut to 31 bits.
_LOCK = 0x6D656D67
_STEPS = 20_000


class PostgresTables:
    """Our tables in a PostgreSQL, written by one thread; a lost connection is made anew."""

    def __init__(self, url: str) -> None:
        try:
            import psycopg  # noqa: F401, PLC0415 - an extra; SQLAlchemy imports it too late to say so
            import sqlalchemy  # noqa: PLC0415 - 20 MB that only its users pay for
        except ImportError:
            raise MissingExtra("a store in PostgreSQL", "postgres") from None
        self._sql: Any = sqlalchemy
        try:
            self._url: Any = sqlalchemy.make_url(url)
        except (sqlalchemy.exc.ArgumentError, ValueError) as error:
            raise ValueError(f"store 'postgresql://…' is no address: {error}") from None
        self._shown = self._url.set(drivername="postgresql").render_as_string(hide_password=True)
        options = f"-c statement_timeout={_STATEMENT_MS} -c timezone=UTC"
        given: Any = self._url.query.get("options", "")
        self._engine: Any = sqlalchemy.create_engine(
            self._url.difference_update_query(["options"]),
            pool_size=1,
            max_overflow=1,
            pool_pre_ping=True,
            connect_args={"connect_timeout": _CONNECT_S, "options": f"{options} {given}".strip()},
        )
        self._metadata: Any = sqlalchemy.MetaData()
        self._made: dict[str, Any] = self._tables()
        self._ready = False

    def _tables(self) -> dict[str, Any]:
        sql = self._sql
        text, number, double = sql.Text, sql.BigInteger, sql.Double

        def table(name: str, subject: str, *columns: Any) -> Any:  # noqa: ANN401 - SQLAlchemy's own kinds
            return sql.Table(
                name,
                self._metadata,
                sql.Column("id", number, sql.Identity(), primary_key=True),
                sql.Column(subject, text, nullable=False),
                sql.Column("timestamp", sql.DateTime(timezone=True), nullable=False),
                *columns,
                sql.Column("service", text),
                sql.Column("host", text),
                sql.Column("pid", number),
                sql.Index(f"{name}_by_time", subject, "timestamp"),
            )

        def column(name: str, kind: Any) -> Any:  # noqa: ANN401 - as above
            return sql.Column(name, kind)

        return {
            "metrics": table(
                "metrics", "metric_name", column("value", double), column("unit", text),
                column("memory_used_mb", double), column("memory_limit_mb", double), column("pressure", double),
                column("level", text),
            ),
            "operation_metrics": table(
                "operation_metrics", "operation_type", column("operation_id", text), column("status", text),
                column("duration_s", double), column("memory_delta_mb", double), column("shared", sql.Boolean),
            ),
            "memguard_events": table(
                "memguard_events", "event_name", column("severity", text), column("text", text),
                column("attributes", text),
            ),
        }  # fmt: skip

    def write(self, rows: Sequence[Row]) -> None:
        """Insert rows, all or none.

        Raises:
            StoreError: they could not be written; nothing was.
        """

        def work(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's own
            self._make(connection)
            for name, table in self._made.items():
                values = [dict(row.values) for row in rows if row.table == name]
                if values:
                    connection.execute(table.insert(), values)

        self._do(work)
        self._ready = True

    def _make(self, connection: Any) -> None:  # noqa: ANN401 - as above
        """Make the tables that are not there; one process at a time."""
        if not self._ready:
            connection.execute(self._sql.select(self._sql.func.pg_advisory_xact_lock(_LOCK)))
            self._metadata.create_all(connection)

    def prune(self, before: datetime) -> int:
        """Delete older rows; how many there were. Their space is given back by the server's own vacuum.

        Raises:
            StoreError: they could not be deleted.
        """

        def work(connection: Any) -> int:  # noqa: ANN401 - as above
            self._make(connection)
            tables = self._made.values()
            return sum(connection.execute(t.delete().where(t.c.timestamp < before)).rowcount for t in tables)

        return self._do(work)

    def averages(self, metric: str, service: str, since: datetime, step_s: float) -> Sequence[Average]:
        """A metric's past in steps.

        Raises:
            StoreError: it cannot be read.
        """
        query = self._sql.text("""
            SELECT floor(extract(epoch FROM timestamp) / :step) * :step AS begun, avg(memory_used_mb),
                   min(memory_used_mb), max(memory_used_mb), max(memory_limit_mb), count(*)
            FROM metrics WHERE metric_name = :metric AND service = :service AND timestamp > :since
            GROUP BY begun ORDER BY begun LIMIT :most
        """)
        bound = {"step": step_s, "metric": metric, "service": service, "since": since, "most": _STEPS}

        def work(connection: Any) -> list[Average]:  # noqa: ANN401 - as above
            return [Average(float(row[0]), *row[1:]) for row in connection.execute(query, bound)]

        return self._do(work)

    def _do(self, work: Callable[[Any], T]) -> T:
        try:
            with self._engine.begin() as connection:
                return work(connection)
        except self._sql.exc.SQLAlchemyError as error:
            self._ready = False
            why = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise StoreError(
                f"store {self._shown} cannot be used: {why}; rows wait until it can: look at the server, the address "
                "and the rights"
            ) from None

    def close(self) -> None:
        """Close the connections; the next use makes new ones."""
        self._engine.dispose()

    def forget(self) -> None:
        """In a forked child: the parent's connections stay the parent's."""
        self._engine.dispose(close=False)
