-- What do the tensors of every run take on disk, site by site?
-- needs: tensors
SELECT
    run_id,
    site,
    string_agg(DISTINCT dtype, ', ' ORDER BY dtype) AS dtype,
    count(DISTINCT layer) AS layers,
    count(DISTINCT blob) AS shards,
    sum(list_product(shape) * CASE WHEN dtype = 'F32' THEN 4 ELSE 2 END)::BIGINT AS bytes
FROM tensors
GROUP BY run_id, site
ORDER BY run_id, bytes DESC;
