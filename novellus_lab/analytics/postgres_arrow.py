"""PostgreSQL's rows as Arrow.

The driver's own DB-API layer imports pyarrow.dataset, and with it pandas: half a second before the first
question. What lies below it is enough.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa


class PostgresError(Exception):
    """PostgreSQL, or the way to it, said no."""


class PostgresArrow:
    """A connection, opened by the first query. For one thread at a time."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._database: Any = None
        self._connection: Any = None

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    def table(self, query: str) -> pa.Table:
        """Return all rows."""
        with self.reader(query) as reader:
            try:
                return reader.read_all()
            except OSError as error:
                raise PostgresError(str(error)) from None

    def run(self, statement: str) -> None:
        """Run what returns no rows."""
        with self._prepared(statement) as prepared:
            prepared.execute_update()

    @contextlib.contextmanager
    def reader(self, query: str) -> Iterator[pa.RecordBatchReader]:
        """Yield rows in batches, as they arrive. What goes wrong on the way is an `OSError`."""
        import pyarrow as pa

        with self._prepared(query) as prepared:
            stream, _ = prepared.execute_query()
            yield pa.RecordBatchReader.from_stream(stream)

    def close(self) -> None:
        """Disconnect; the next query connects again."""
        from adbc_driver_manager import Error

        for part in (self._connection, self._database):
            with contextlib.suppress(Error):
                if part is not None:
                    part.close()
        self._connection = self._database = None

    @contextlib.contextmanager
    def _prepared(self, query: str) -> Iterator[Any]:
        import adbc_driver_manager
        import adbc_driver_postgresql

        try:
            if self._connection is None:
                self._database = adbc_driver_postgresql.connect(self._conninfo)
                self._connection = adbc_driver_manager.AdbcConnection(self._database)
            statement = adbc_driver_manager.AdbcStatement(self._connection)
            try:
                statement.set_sql_query(query)
                yield statement
            finally:
                statement.close()
        except adbc_driver_manager.Error as error:
            raise PostgresError(str(error)) from None


class PostgresRows:
    """A query that Arrow's consumers read as a table, as often as they like, each time anew."""

    def __init__(self, conninfo: str, query: str) -> None:
        self._conninfo = conninfo
        self._query = query

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        import pyarrow as pa

        def batches() -> Iterator[Any]:
            # Whoever reads holds what it reads from.
            try:
                yield from reader
            finally:
                asked.close()
                connection.close()

        connection = PostgresArrow(self._conninfo)
        asked = contextlib.ExitStack()
        reader = asked.enter_context(connection.reader(self._query))
        stream = pa.RecordBatchReader.from_batches(reader.schema, batches())
        return stream.__arrow_c_stream__(requested_schema)
