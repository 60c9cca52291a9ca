-- lens_runs: a row is a run that a lens answers for, with that lens.
--
-- The newest lens of a captured run answers for it, and a lens answers for itself: the saved queries about lenses join this view on
-- their variable run, so that either may be named.
WITH lenses AS (
    -- From the manifests: the rows of logit_lens, of which there are many, say the same.
    SELECT run_id, parents[1] AS source_run_id, created_at
    FROM runs
    WHERE list_contains(tables, 'logit_lens')
)
SELECT
    source_run_id AS run_id,  -- A captured run, or a run of kind lens
    run_id AS lens_run_id  -- The run of kind lens that answers for it: its newest, or itself
FROM lenses
QUALIFY row_number() OVER (PARTITION BY source_run_id ORDER BY created_at DESC, run_id) = 1
UNION
SELECT run_id, run_id AS lens_run_id
FROM lenses
