-- Which heads look for what followed the current token before? --data repeated-words shows them best.
-- run: the run asked about, at whose capture heads were made, from which they were derived, or that was derived
-- needs: heads
--
-- induction_mass is attention on the tokens after earlier occurrences of the current one, the current place itself apart. Runs from
-- before schema version 7 counted that too where like tokens stand in a row.
SELECT
    h.layer,
    h.head,
    count(DISTINCT (h.example_id, h.seq)) AS examples,
    round(avg(h.induction_mass), 3) AS induction_mass,
    round(avg(h.previous_token_mass), 3) AS previous_token_mass,
    round(avg(h.first_token_mass), 3) AS first_token_mass,
    round(avg(h.entropy), 3) AS entropy
FROM heads AS h
WHERE getvariable('run') IN (h.run_id, h.source_run_id) AND h.induction_mass IS NOT NULL
GROUP BY h.side, h.layer, h.head
ORDER BY induction_mass DESC, h.layer, h.head
LIMIT 20;
