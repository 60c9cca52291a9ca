-- effect_means: a row is an intervention and a metric, over all examples that it was done to.
--
-- The normalised mean is a ratio of means: a mean of the examples' ratios is ruled by those whose clean and corrupted prompts hardly
-- differ. It is over the examples that have a normalised effect of their own.
WITH means AS (
    SELECT
        e.run_id,
        e.source_run_id,
        e.intervention_id,
        e.metric,
        bool_or(s.is_default) AS is_default,
        min(e.seq) AS seq,
        count(*) AS n,
        avg(e.effect) AS effect,
        CASE WHEN bool_and(isfinite(e.effect)) THEN 1.96 * stddev_samp(e.effect) FILTER (isfinite(e.effect)) / sqrt(count(*)) END AS half,
        sum(e.effect) FILTER (e.effect_normalised IS NOT NULL)
        / nullif(sum(s.clean - s.corrupted) FILTER (e.effect_normalised IS NOT NULL), 0) AS effect_normalised,
        avg(e.baseline) AS baseline,
        avg(e.value) AS value
    FROM effects AS e
    LEFT JOIN task_scores AS s ON s.run_id = e.source_run_id AND s.example_id = e.example_id AND s.metric = e.metric
    GROUP BY e.run_id, e.source_run_id, e.intervention_id, e.metric
)
SELECT
    m.run_id,
    m.source_run_id,
    m.intervention_id,
    i.spec,
    i.side,
    i.site,
    i.layer,
    i.head,
    i.pos,
    i.kind,
    i.direction,
    i.reference_run_id,
    i.n_reference,
    m.seq,  -- The prompt of each pair that ran: 0 clean, 1 corrupted
    m.metric,  -- The metric: logit_diff, prob_diff, logprob or kl, as in effects
    m.is_default,  -- Whether it is the task's own metric; NULL: the task's run is not there
    m.n,  -- Examples
    m.effect,  -- Mean effect over them: value - baseline
    m.effect - m.half AS effect_low,  -- Lower end of its 95 % interval over examples, mean - 1.96 sd / sqrt(n); NULL: one example, or an infinite effect
    m.effect + m.half AS effect_high,  -- Upper end
    m.effect_normalised,  -- Sum of effects by sum of clean - corrupted, over the examples whose own is not NULL: 1 restores, -1 destroys; NULL: none has one
    m.baseline,  -- Mean of the metric with nothing done
    m.value  -- Mean of the metric with it done
FROM means AS m
JOIN interventions AS i ON i.run_id = m.run_id AND i.intervention_id = m.intervention_id
