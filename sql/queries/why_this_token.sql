-- Why did the model say this? The source tokens, heads and MLPs that add most to each explained logit, side by side.
-- run: the influence run asked about, or the run that it explains; of several the newest
-- example: the example, by its id or the beginning of it; the first one if not set
-- needs: logit_parts, influence_targets
--
-- logit is the explained logit, or the difference of target and against; source, head and mlp add to it (or take away, where negative),
-- and place 1 adds most in size. A token's part is what heads read from it at the explained position, and the embedding there. first_ifr
-- is the first token's share of information flow, a sink where it is large; NULL: not measured.
WITH chosen AS (
    SELECT r.run_id
    FROM runs AS r
    WHERE
        getvariable('run') IN (r.run_id, r.parents[1])
        AND list_contains(r.tables, 'logit_parts')
    ORDER BY r.created_at DESC, r.run_id DESC
    LIMIT 1
),
picked AS (
    SELECT
        p.run_id,
        p.example_id,
        p.seq,
        p.pos,
        p.part,
        p.layer,
        p.head,
        p.source_pos,
        p.logit
    FROM logit_parts AS p
    WHERE
        p.run_id IN (SELECT run_id FROM chosen)
        AND p.example_id = (
            SELECT min(l.example_id)
            FROM logit_parts AS l
            WHERE
                l.run_id IN (SELECT run_id FROM chosen)
                AND starts_with(l.example_id, coalesce(getvariable('example'), ''))
        )
),
summed AS (
    SELECT run_id, example_id, seq, pos, 'source' AS what, source_pos AS place_in, NULL AS head, sum(logit) AS logit
    FROM picked
    WHERE source_pos IS NOT NULL
    GROUP BY run_id, example_id, seq, pos, source_pos
    UNION ALL
    SELECT run_id, example_id, seq, pos, 'head' AS what, layer AS place_in, head, sum(logit) AS logit
    FROM picked
    WHERE part IN ('head', 'attn')
    GROUP BY run_id, example_id, seq, pos, layer, head
    UNION ALL
    SELECT run_id, example_id, seq, pos, 'mlp' AS what, layer AS place_in, NULL AS head, logit
    FROM picked
    WHERE part = 'mlp'
),
placed AS (
    SELECT
        run_id,
        example_id,
        seq,
        pos,
        what,
        place_in,
        head,
        logit,
        row_number() OVER (
            PARTITION BY run_id, example_id, seq, pos, what ORDER BY abs(logit) DESC, place_in, head
        ) AS place
    FROM summed
    QUALIFY place <= 5
),
sided AS (
    SELECT
        run_id,
        example_id,
        seq,
        pos,
        place,
        any_value(place_in) FILTER (what = 'source') AS source_pos,
        any_value(logit) FILTER (what = 'source') AS source_logit,
        any_value('L' || place_in || coalesce('H' || head, ' attention')) FILTER (what = 'head') AS head,
        any_value(logit) FILTER (what = 'head') AS head_logit,
        any_value('M' || place_in) FILTER (what = 'mlp') AS mlp,
        any_value(logit) FILTER (what = 'mlp') AS mlp_logit
    FROM placed
    GROUP BY run_id, example_id, seq, pos, place
)
SELECT
    s.example_id,
    s.seq,
    s.pos,
    t.target_token AS target,
    t.against_token AS against,
    round(t.logit, 4) AS logit,
    s.place,
    s.source_pos,
    i.source_token AS source,
    round(s.source_logit, 4) AS source_logit,
    s.head,
    round(s.head_logit, 4) AS head_logit,
    s.mlp,
    round(s.mlp_logit, 4) AS mlp_logit,
    round(f.ifr, 4) AS first_ifr
FROM sided AS s
JOIN influence_targets AS t
    ON t.run_id = s.run_id AND t.example_id = s.example_id AND t.seq = s.seq AND t.pos = s.pos
LEFT JOIN influences AS i
    ON i.run_id = s.run_id
    AND i.example_id = s.example_id
    AND i.seq = s.seq
    AND i.pos = s.pos
    AND i.source_pos = s.source_pos
LEFT JOIN (SELECT run_id, example_id, seq, pos, ifr FROM influences WHERE source_pos = 0) AS f
    ON f.run_id = s.run_id AND f.example_id = s.example_id AND f.seq = s.seq AND f.pos = s.pos
ORDER BY s.example_id, s.seq, s.pos, s.place;
