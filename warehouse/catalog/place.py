"""Where the files are that the views read: in the folder of `warehouse.duckdb`, wherever that is now.

A view's text is fixed when the view is made, and the folder may be copied or moved afterwards and opened in any DuckDB, without any
of our code. In: the folder. Out: the SQL of two macros, which are made in `warehouse.duckdb` with the views and which the views call.

DuckDB opens a file in two ways. As its own (`duckdb runs/warehouse.duckdb`): its setting `temp_directory` then is that path and
`.tmp`, unless it was set by hand, and leads to the folder. Attached (`ATTACH 'runs/warehouse.duckdb'`): nothing that the arguments of
`read_parquet` may use tells the path, so the views read the folder that they were made in, and refuse where the file is elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable

from warehouse.schema.quoting import sql_text
from warehouse.storage import paths
from warehouse.storage.objects import AnyPath, ObjectPath

STATE_VIEW = "catalog_state"
MADE_OF = "One row: what these views were made from"
IN_PLACE = "warehouse_in_place()"
"""The condition of every view that reads files: true, or the error of a warehouse that would read another's."""

_OWN_TMP = f"{paths.CATALOG}.tmp"
_OPENED = "current_setting('temp_directory')"
_AS_ITS_OWN = f"parse_filename({_OPENED}) = {sql_text(_OWN_TMP)}"
_WOULD_MIX = (
    "Several warehouses are open, and one of them as the file that DuckDB was started with, which all of them would read. "
    "Start DuckDB without a file, and ATTACH each."
)


def made_in(root: AnyPath) -> str:
    """Write the comment of the view `catalog_state`: by it a catalog is known, also among others, and in another place."""
    return f"{MADE_OF}, in {_folder(root)}"


def macros(root: AnyPath) -> dict[str, str]:
    """Write the macros that the views call.

    Args:
        root: The folder that `warehouse.duckdb` is made for.

    Returns:
        Head of a macro → its text.
    """
    folder = _folder(root)
    if isinstance(root, ObjectPath):  # an address is the same everywhere
        return {"warehouse_folder()": sql_text(folder), IN_PLACE: "true"}
    own_folder = f"coalesce(nullif(left({_OPENED}, -{len(_OWN_TMP)}), ''), './')"
    elsewhere = (
        f"{sql_text(f'This warehouse was made in {folder} and is now in ')} || here || {sql_text('. Open ')} || here || "
        f"{sql_text(f'{paths.CATALOG} as the file that DuckDB starts with, or run: traces refresh --warehouse ')} || here"
    )
    return {
        "warehouse_folder()": f"CASE WHEN {_AS_ITS_OWN} THEN {own_folder} ELSE {sql_text(folder)} END",
        IN_PLACE: f"""(
    SELECT CASE
        WHEN {_AS_ITS_OWN}
        THEN CASE
            WHEN {"false" if has_values(root) else "contains(warehouse_folder(), '=')"} THEN error(max({elsewhere}) FILTER (is_this))
            WHEN count(*) FILTER (is_this) = 1 AND min(oid) FILTER (is_this) = min(oid) THEN true
            ELSE error({sql_text(_WOULD_MIX)})
        END
        ELSE bool_and(CASE WHEN is_this AND here <> {sql_text(folder)} THEN error({elsewhere}) ELSE true END) IS NOT false
    END
    FROM (
        SELECT
            d.database_oid AS oid,
            parse_dirpath(d.path) || '/' AS here,
            coalesce(v.comment = {sql_text(made_in(root))}, false) AS is_this
        FROM duckdb_databases() AS d
        LEFT JOIN duckdb_views() AS v ON v.database_oid = d.database_oid AND v.view_name = {sql_text(STATE_VIEW)}
        WHERE d.path IS NOT NULL
    )
)""",
    }


def has_values(root: AnyPath) -> bool:
    """Return whether DuckDB could read a folder of the path, other than a run's, as a column and its value."""
    return "=" in _folder(root)


def files(below: Iterable[str]) -> str:
    """Write SQL for a list of files, given by their paths below the folder."""
    # One text of many names is made into a list ten times as fast as a list of as many texts is read.
    return f"list_transform(string_split({sql_text('//'.join(below))}, '//'), lambda name: warehouse_folder() || name)"


def _folder(root: AnyPath) -> str:
    """Return the folder as DuckDB tells the paths of databases, absolute and without symbolic links, and a slash."""
    return f"{str(root.resolve()).rstrip('/')}/"
