-- lens_runs: a row is a run that a lens answers for, with that lens.
--
-- run_id is a captured run, for which its newest lens (lens_run_id) answers, or a lens, which answers for itself: the saved queries
-- about lenses join it on their variable run, so that either may be named.
WITH lenses AS (
    SELECT l.run_id, l.source_run_id, r.created_at
    FROM (SELECT DISTINCT run_id, source_run_id FROM logit_lens) AS l
    JOIN runs AS r ON r.run_id = l.run_id
)
SELECT source_run_id AS run_id, run_id AS lens_run_id
FROM lenses
QUALIFY row_number() OVER (PARTITION BY source_run_id ORDER BY created_at DESC, run_id) = 1
UNION
SELECT run_id, run_id AS lens_run_id
FROM lenses
