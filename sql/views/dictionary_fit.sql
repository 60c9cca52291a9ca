-- dictionary_fit: a row is a dictionary that a run was encoded with: how many features are active, and how much of the states it gives back.
--
-- Over all tokens but special ones and the first of each sequence, whose states are many times as long as the others. loss and the columns
-- after it are of the newest run of reconstruction_losses on that dictionary, each sequence counted by its predictions, and NULL without one.
WITH fit AS (
    SELECT
        q.run_id,
        q.source_run_id,
        q.sae,
        q.layer,
        count(*) AS n_tokens,
        avg(q.n_active) AS mean_active,
        sum(CAST(q.squared_error AS DOUBLE)) AS error,
        sum(CAST(q.squared_norm AS DOUBLE)) AS norm,
        sum(CAST(q.squared_deviation AS DOUBLE)) AS deviation
    FROM reconstructions AS q
    JOIN dictionaries AS d ON d.run_id = q.run_id AND d.sae = q.sae
    JOIN tokens AS t
        ON
            t.run_id = q.source_run_id
            AND t.example_id = q.example_id
            AND t.seq = q.seq
            AND t.pos = q.pos
            AND t.side = d.side
    WHERE q.pos > 0 AND NOT t.is_special
    GROUP BY q.run_id, q.source_run_id, q.sae, q.layer
),
losses AS (
    SELECT
        run_id,
        source_run_id,
        sae,
        weights_hash,
        sum(n_predictions) AS n_predictions,
        sum(loss * n_predictions) / nullif(sum(n_predictions), 0) AS loss,
        sum(reconstructed_loss * n_predictions) / nullif(sum(n_predictions), 0) AS reconstructed_loss,
        sum(zeroed_loss * n_predictions) / nullif(sum(n_predictions), 0) AS zeroed_loss,
        sum(mean_kl * n_predictions) / nullif(sum(n_predictions), 0) AS mean_kl
    FROM reconstruction_losses
    GROUP BY run_id, source_run_id, sae, weights_hash
    HAVING sum(n_predictions) > 0
),
newest AS (
    SELECT l.*
    FROM losses AS l
    JOIN runs AS r ON r.run_id = l.run_id
    QUALIFY row_number() OVER (PARTITION BY l.source_run_id, l.sae, l.weights_hash ORDER BY r.created_at DESC, l.run_id DESC) = 1
)
SELECT
    f.run_id,
    f.source_run_id,
    f.sae,
    f.layer,
    d.site,
    d.architecture,
    d.n_features,
    f.n_tokens,  -- Tokens that it is measured on
    f.mean_active,  -- Mean number of active features by token: L0
    1 - f.error / nullif(f.deviation, 0) AS explained_variance,  -- 1 less the squared error in parts of the squared distance from the mean state; NULL: all states are the mean
    CASE WHEN f.norm > 0 AND f.error >= 0 THEN sqrt(f.error / f.norm) END AS relative_error,  -- Root of the squared error in parts of the squared length of the states
    n.n_predictions,  -- Predictions that the losses are means over
    n.loss,  -- Mean loss of the model as it is, nats
    n.reconstructed_loss,  -- The same with what the dictionary gives back in the place of each state
    n.zeroed_loss,  -- The same with 0 in that place
    CASE
        WHEN isfinite(n.loss) AND isfinite(n.reconstructed_loss) AND isfinite(n.zeroed_loss)
            THEN (n.zeroed_loss - n.reconstructed_loss) / nullif(n.zeroed_loss - n.loss, 0)
    END AS loss_recovered,  -- 1: as good as the state itself; 0: as bad as none; NULL: a loss is infinite, or nothing is lost without it
    n.mean_kl,  -- Mean KL(the model as it is || with what the dictionary gives back), nats
    n.run_id AS losses_run_id  -- The run that holds the losses
FROM fit AS f
JOIN dictionaries AS d ON d.run_id = f.run_id AND d.sae = f.sae
LEFT JOIN newest AS n ON n.source_run_id = f.source_run_id AND n.sae = f.sae AND n.weights_hash = d.weights_hash
