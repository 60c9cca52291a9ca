"""Vector tables: what runs stored of a site and a layer, once more as Lance tables, to be searched by nearness.

    asked     `resid.post_mlp@mid` as sites and layers of a run
    tables    where a table is, what is known of it, and who may change it
    fill      from a run's shards into tables, and out of them when a run goes
    index     when a table is indexed, how, and how much of the exact answer its index finds
    search    the nearest vectors, exactly or through the index, under any filter
    shell     the same in the duckdb shell: a view and a macro a table

They are indexes: all of it can be made again from the runs.
"""
