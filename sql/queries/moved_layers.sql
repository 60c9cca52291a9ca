-- How far did the states of each layer move between two models, and how much of it in one direction?
-- run (comparison): the comparison
-- needs: moved_directions
--
-- moved is the length of the differences relative to that of the states; first_share the part of their squared length along the direction
-- of rank 1, and kept_share along all that are kept; mean_shift and sd_shift are of the first, in the states' own unit.
SELECT
    layer,
    round(any_value(rms_moved) / nullif(any_value(rms_state), 0), 4) AS moved,
    round(max(CASE WHEN rank = 1 THEN share END), 4) AS first_share,
    round(sum(share), 4) AS kept_share,
    count(*) AS directions,
    round(max(CASE WHEN rank = 1 THEN mean_shift END), 4) AS mean_shift,
    round(max(CASE WHEN rank = 1 THEN sd_shift END), 4) AS sd_shift
FROM moved_directions
WHERE run_id = getvariable('run')
GROUP BY layer
ORDER BY layer NULLS FIRST;
