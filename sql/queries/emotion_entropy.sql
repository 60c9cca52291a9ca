-- On texts of which emotion is the model least sure? Entropy and loss (nats) by label, and against all other texts.
-- run: the run asked about
-- needs: labels, next_token
--
-- A mean over examples of each example's own mean over its predictions, so that long texts count no more than short ones;
-- examples without a prediction are left out. An example with several labels counts for each. The differences are to the
-- examples of the run that have not the label, other labels or none; NULL where there are none, or where a loss among them is
-- infinite, as that of a token that the model rules out.
WITH by_example AS (
    SELECT example_id, avg(entropy) AS entropy, avg(loss) AS loss
    FROM next_token
    WHERE run_id = getvariable('run')
    GROUP BY example_id
),
overall AS (
    SELECT count(*) AS n, sum(entropy) AS entropy, sum(loss) AS loss
    FROM by_example
),
by_label AS (
    SELECT l.label, count(*) AS n, sum(e.entropy) AS entropy, sum(e.loss) AS loss
    FROM labels AS l
    JOIN by_example AS e USING (example_id)
    WHERE l.run_id = getvariable('run')
    GROUP BY l.label
)
SELECT
    b.label,
    b.n AS examples,
    round(b.entropy / b.n, 3) AS mean_entropy,
    round(b.entropy / b.n - (o.entropy - b.entropy) / nullif(o.n - b.n, 0), 3) AS entropy_difference,
    round(b.loss / b.n, 3) AS mean_loss,
    CASE
        WHEN isfinite(o.loss) THEN round(b.loss / b.n - (o.loss - b.loss) / nullif(o.n - b.n, 0), 3)
    END AS loss_difference
FROM by_label AS b
CROSS JOIN overall AS o
ORDER BY b.entropy / b.n DESC, b.label;
