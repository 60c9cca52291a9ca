"""Vector tables: what runs stored of a site and a layer, once more as Lance tables, to be searched by nearness.

    index_spec      `resid.post_mlp@mid` as tensors of a run
    table           one table: its files, its info, its lock; `table_cache` keeps all tables open
    model_folders   which folder holds the tables of which weights
    ingest          from a run's shards into tables; `reconcile` takes rows out again; `repair` mends damaged tables
    ann_index       when a table is indexed, how, and how much of the exact answer its index finds
    distances       one search of one Lance table, with distances in float64
    search          the nearest vectors over tables, exactly or through the index, under any filter
    token_query     a token or a text as the query
    trait_table     the vectors of traits, one table per model
    duckdb_macros   the same tables in the duckdb shell: a view and a macro each

They are indexes: everything can be rebuilt from the runs. What is known without searching (probes, heads) belongs to `analysis`.
"""
