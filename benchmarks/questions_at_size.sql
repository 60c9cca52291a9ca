-- The questions of questions_at_size.py as one would write them over the Parquet files of the runs that they are about.

-- name: calibration
SELECT least(floor(pred_prob::DOUBLE * 10), 9) / 10 AS bin, count(*), avg(pred_prob), avg(correct::INTEGER), avg(correct::INTEGER) - avg(pred_prob)
FROM next_token GROUP BY bin ORDER BY bin

-- name: calibration_error
SELECT run, sum(n * gap) / sum(n) AS error, max(gap)
FROM (
    SELECT run, least(floor(pred_prob::DOUBLE * 10), 9) AS bin, count(*) AS n, abs(avg(correct::INTEGER) - avg(pred_prob)) AS gap
    FROM (SELECT 'large' AS run, pred_prob, correct FROM next_token UNION ALL SELECT 'other', pred_prob, correct FROM other_next_token)
    GROUP BY run, bin
)
GROUP BY run ORDER BY round(error, 4)

-- name: common_confusions
SELECT true_token, pred_token, count(*) AS n, avg(pred_prob), avg(true_prob)
FROM next_token WHERE NOT correct GROUP BY true_token, pred_token ORDER BY n DESC, true_token, pred_token LIMIT 20

-- name: compare_runs
WITH a AS (SELECT example_id, sum(loss::DOUBLE) AS loss, count(*) AS n, min(pos) AS first FROM next_token GROUP BY example_id),
b AS (SELECT example_id, sum(loss::DOUBLE) AS loss, count(*) AS n, min(pos) AS first FROM other_next_token GROUP BY example_id),
a_spans AS (
    SELECT example_id, max(char_end) FILTER (pos <= first) AS begin, max(char_end) AS past
    FROM tokens JOIN a USING (example_id) GROUP BY example_id
),
b_spans AS (
    SELECT example_id, max(char_end) FILTER (pos <= first) AS begin, max(char_end) AS past
    FROM other_tokens JOIN b USING (example_id) GROUP BY example_id
),
bits AS (
    SELECT
        example_id, a.loss / a.n AS a_loss, b.loss / b.n AS b_loss, a.n AS a_n, b.n AS b_n, e.text[:60] AS text,
        a.loss / ln(2) / strlen(e.text[s.begin + 1 : s.past]) AS a_bits, b.loss / ln(2) / strlen(f.text[t.begin + 1 : t.past]) AS b_bits
    FROM a JOIN b USING (example_id) JOIN a_spans AS s USING (example_id) JOIN b_spans AS t USING (example_id)
    JOIN examples AS e USING (example_id) JOIN other_examples AS f USING (example_id)
)
SELECT example_id, a_bits, b_bits, a_bits - b_bits, a_loss, b_loss, a_n, b_n, text
FROM bits ORDER BY abs(a_bits - b_bits) DESC, abs(a_loss - b_loss) DESC, example_id LIMIT 20

-- name: confident_mistakes
SELECT p.pred_prob, p.pred_token, p.true_token, p.true_prob, p.true_rank, e.text[greatest(t.char_end - 60, 1) : t.char_end], p.example_id, p.pos
FROM (SELECT * FROM next_token WHERE NOT correct ORDER BY pred_prob DESC, example_id, seq, pos LIMIT 20) AS p
JOIN tokens AS t USING (example_id, seq, pos) JOIN examples AS e USING (example_id)
ORDER BY p.pred_prob DESC, example_id, seq, pos

-- name: decision_depth
WITH last AS (SELECT example_id, seq, pos, topk_ids[1] AS id, actual_rank, entropy FROM logit_lens WHERE layer = 3),
decided AS (
    SELECT coalesce(max(l.layer) FILTER (l.topk_ids[1] <> last.id), -1) + 1 AS layer, any_value(last.actual_rank) AS rank, any_value(last.entropy) AS entropy
    FROM logit_lens AS l JOIN last USING (example_id, seq, pos) GROUP BY example_id, seq, pos
)
SELECT layer, count(*), count(*) / sum(count(*)) OVER (), sum(count(*)) OVER (ORDER BY layer) / sum(count(*)) OVER (), avg((rank = 1)::INTEGER), avg(entropy)
FROM decided GROUP BY layer ORDER BY layer

-- name: disagreements
SELECT example_id, pos, a.true_token, a.pred_token, a.pred_prob, b.pred_token, b.pred_prob, round(a.loss - b.loss, 2)
FROM next_token AS a JOIN other_next_token AS b USING (example_id, seq, pos)
WHERE a.true_token = b.true_token AND a.pred_token <> b.pred_token
ORDER BY a.pred_prob DESC, example_id, pos LIMIT 20

-- name: emotion_entropy
WITH by_example AS (SELECT example_id, avg(entropy) AS entropy, avg(loss) AS loss FROM next_token GROUP BY example_id),
overall AS (SELECT count(*) AS n, sum(entropy) AS entropy, sum(loss) AS loss FROM by_example)
SELECT
    label, count(*), avg(e.entropy), avg(e.entropy) - (any_value(o.entropy) - sum(e.entropy)) / (any_value(o.n) - count(*)),
    avg(e.loss), avg(e.loss) - (any_value(o.loss) - sum(e.loss)) / (any_value(o.n) - count(*))
FROM labels JOIN by_example AS e USING (example_id), overall AS o
GROUP BY label ORDER BY avg(e.entropy) DESC, label

-- name: entropy_against_loss
SELECT floor(entropy) AS bin, count(*), avg(entropy), avg(loss), avg(correct::INTEGER) FROM next_token GROUP BY bin ORDER BY bin

-- name: hardest_examples
WITH worst AS (
    SELECT example_id, count(*) AS n, avg(loss) AS loss, avg(correct::INTEGER) AS accuracy FROM next_token
    GROUP BY example_id HAVING n >= 10 ORDER BY round(avg(loss), 3) DESC, example_id LIMIT 20
)
SELECT example_id, n, loss, round(exp(loss), 1), accuracy, text[:80]
FROM worst JOIN examples USING (example_id) ORDER BY round(loss, 3) DESC, example_id

-- name: induction_heads
SELECT layer, head, count(DISTINCT (example_id, seq)), avg(induction_mass) AS mass, avg(previous_token_mass), avg(first_token_mass), avg(entropy)
FROM heads WHERE induction_mass IS NOT NULL GROUP BY layer, head ORDER BY round(mass, 3) DESC, layer, head LIMIT 20

-- name: lens_hit_at_k
SELECT
    layer, count(*), avg((actual_rank <= 1)::INTEGER), avg((actual_rank <= 5)::INTEGER), avg((actual_rank <= 10)::INTEGER),
    median(actual_rank)::INTEGER, avg(entropy), avg(kl_to_final)
FROM logit_lens WHERE actual_rank IS NOT NULL GROUP BY layer ORDER BY layer

-- name: lens_ranks
WITH asked AS (FROM logit_lens WHERE example_id = (SELECT min(example_id) FROM logit_lens)),
by_token AS (
    SELECT
        seq, pos, any_value(actual_token) AS next, list(topk_tokens[1] ORDER BY layer) AS firsts, list(topk_ids[1] ORDER BY layer) AS ids,
        arg_max(actual_rank, layer) AS rank, arg_max(actual_prob, layer) AS prob, list(actual_rank ORDER BY layer) AS ranks
    FROM asked GROUP BY seq, pos
)
SELECT
    seq, pos, t.token, next, firsts[-1], coalesce(list_max([i FOR id, i IN ids IF id <> ids[-1]]), 0), rank, prob, ranks
FROM by_token JOIN tokens AS t USING (seq, pos)
WHERE t.example_id = (SELECT min(example_id) FROM logit_lens) ORDER BY seq, pos

-- name: loss_by_part_of_speech
WITH by_word AS (
    SELECT
        w.upos, count(p.loss) AS n, sum(p.loss) AS loss, sum(p.entropy) AS entropy, sum(p.correct::INTEGER) AS correct,
        count(p.loss) = count(*) AND max(t.char_end) >= any_value(w.char_end) AS whole
    FROM tokens AS t JOIN words AS w USING (example_id, word_idx)
    LEFT JOIN next_token AS p ON p.example_id = t.example_id AND p.seq = t.seq AND p.pos = t.pos - 1
    GROUP BY t.example_id, t.word_idx, w.upos
)
SELECT
    upos, count(*) FILTER (whole), sum(n)::BIGINT, sum(loss) / sum(n) AS mean, avg(loss) FILTER (whole), sum(entropy) / sum(n),
    round(exp(mean), 2), sum(correct) / sum(n)
FROM by_word GROUP BY upos ORDER BY mean DESC, upos

-- name: loss_by_position
SELECT if(pos < 16, pos, (2 ** floor(log2(pos)))::INTEGER) AS bin, count(*), avg(loss), round(exp(avg(loss)), 2), avg(correct::INTEGER)
FROM next_token GROUP BY bin ORDER BY bin

-- name: loss_by_token
SELECT true_token, count(*) AS n, avg(loss) AS mean, avg(correct::INTEGER), round(sum(loss), 1)
FROM next_token GROUP BY true_token HAVING n >= 5 ORDER BY round(mean, 3) DESC, true_token LIMIT 20

-- name: most_surprising_tokens
SELECT round(p.loss, 2), p.true_token, p.pred_token, p.pred_prob, p.true_rank, e.text[greatest(t.char_end - 60, 1) : t.char_end], p.example_id, p.pos
FROM (SELECT * FROM next_token ORDER BY loss DESC, example_id, seq, pos LIMIT 20) AS p
JOIN tokens AS t USING (example_id, seq, pos) JOIN examples AS e USING (example_id)
ORDER BY p.loss DESC, example_id, seq, pos

-- name: stored_bytes
SELECT 'large', site, string_agg(DISTINCT dtype, ', '), count(DISTINCT layer), count(DISTINCT blob), sum(2 * list_product(shape))::BIGINT AS bytes
FROM tensors GROUP BY site ORDER BY bytes DESC

-- name: topk_accuracy
SELECT
    run, count(*), avg((true_rank <= 1)::INTEGER) AS first, avg((true_rank <= 3)::INTEGER), avg((true_rank <= 5)::INTEGER),
    avg((true_rank <= 10)::INTEGER), avg((true_rank <= 100)::INTEGER), avg((true_rank <= 1000)::INTEGER), avg(1 / true_rank)
FROM (SELECT 'large' AS run, true_rank FROM next_token UNION ALL SELECT 'other', true_rank FROM other_next_token)
GROUP BY run ORDER BY round(first, 4) DESC

-- name: trait_by_emotion
WITH by_example AS (
    SELECT example_id, trait, sum(mean_projection * n_tokens) / sum(n_tokens) AS projection, sum(mean_cosine * n_tokens) / sum(n_tokens) AS cosine
    FROM trait_dynamics GROUP BY example_id, trait
),
overall AS (SELECT trait, count(*) AS n, sum(projection) AS projection, stddev_pop(projection) AS spread FROM by_example GROUP BY trait),
by_label AS (
    SELECT trait, label, count(*) AS n, sum(projection) AS projection, avg(cosine) AS cosine
    FROM by_example JOIN labels USING (example_id) GROUP BY trait, label
)
SELECT
    trait, 'mean_diff', 'resid.post_mlp', 2, label, l.n, l.projection / l.n, l.cosine,
    l.projection / l.n - (o.projection - l.projection) / (o.n - l.n) AS difference, difference / o.spread
FROM by_label AS l JOIN overall AS o USING (trait) ORDER BY trait, l.projection / l.n DESC, label

-- name: trait_by_part_of_speech
WITH by_tag AS (
    SELECT
        p.trait, w.upos, count(*) AS n, sum(p.projection::DOUBLE) AS total, sum(p.projection::DOUBLE ** 2) AS squares,
        avg(p.projection / p.token_norm) AS cosine, avg(abs(p.velocity)) AS speed
    FROM trait_projections AS p
    JOIN (SELECT t.example_id, t.seq, t.pos, w.upos FROM tokens AS t JOIN words AS w USING (example_id, word_idx)) AS w USING (example_id, seq, pos)
    GROUP BY p.trait, w.upos
),
overall AS (SELECT trait, sum(n) AS n, sum(total) AS total, sqrt(sum(squares) / sum(n) - (sum(total) / sum(n)) ** 2) AS spread FROM by_tag GROUP BY trait)
SELECT
    trait, 'mean_diff', 'resid.post_mlp', 2, upos, t.n, t.total / t.n, cosine,
    t.total / t.n - (o.total - t.total) / (o.n - t.n) AS difference, difference / spread, speed
FROM by_tag AS t JOIN overall AS o USING (trait) ORDER BY trait, t.total / t.n DESC, upos

-- name: trait_by_token
WITH asked AS (SELECT min(example_id) AS example_id FROM trait_dynamics)
SELECT
    p.example_id, p.seq, p.pos, t.token, p.trait, p.method, p.layer, p.projection, p.projection / p.token_norm, p.velocity, b.loss, b.entropy
FROM asked JOIN trait_projections AS p USING (example_id) JOIN tokens AS t USING (example_id, seq, pos)
LEFT JOIN (FROM next_token JOIN asked USING (example_id)) AS b ON b.seq = p.seq AND b.pos = p.pos - 1
ORDER BY p.seq, p.trait, p.pos

-- name: trait_commitment
WITH looked AS (
    SELECT
        p.trait, p.example_id, p.seq, p.pos, b.loss, b.entropy, p.acceleration,
        row_number() OVER (PARTITION BY p.trait, p.example_id, p.seq ORDER BY p.pos) - 1 AS place
    FROM trait_projections AS p
    LEFT JOIN next_token AS b ON b.example_id = p.example_id AND b.seq = p.seq AND b.pos = p.pos - 1
),
by_threshold AS (
    SELECT
        l.trait, l.example_id, l.seq, l.pos, l.loss, l.entropy, l.place,
        unnest(['absolute', 'relative']) AS threshold, unnest([d.commitment_point, d.commitment_point_relative]) AS point
    FROM looked AS l JOIN trait_dynamics AS d USING (trait, example_id, seq)
    WHERE l.acceleration IS NOT NULL
),
frequent AS (
    SELECT trait, threshold, list(token ORDER BY n DESC, token)[:5] AS tokens
    FROM (
        SELECT trait, threshold, token, count(*) AS n FROM by_threshold JOIN tokens USING (example_id, seq, pos)
        WHERE place = point GROUP BY trait, threshold, token
    )
    GROUP BY trait, threshold
)
SELECT
    trait, 'mean_diff', 'resid.post_mlp', 2, threshold, count(*) FILTER (place = point), round(avg(place) FILTER (place = point), 2),
    avg(loss) FILTER (place = point), avg(loss) FILTER (place IS DISTINCT FROM point),
    avg(entropy) FILTER (place = point), avg(entropy) FILTER (place IS DISTINCT FROM point), any_value(tokens)
FROM by_threshold LEFT JOIN frequent USING (trait, threshold) GROUP BY trait, threshold ORDER BY trait, threshold

-- name: word_starts
SELECT
    if(b.word_idx IS DISTINCT FROM a.word_idx, 'starts a word', 'goes on with one') AS kind, count(*), avg(p.loss), round(exp(avg(p.loss)), 2),
    avg(p.correct::INTEGER)
FROM next_token AS p JOIN tokens AS a USING (example_id, seq, pos)
JOIN (SELECT example_id, seq, pos - 1 AS pos, word_idx FROM tokens) AS b USING (example_id, seq, pos)
GROUP BY kind ORDER BY kind

-- name: worst ten of token_texts
SELECT t.token, p.loss, e.text[greatest(t.char_start - 39, 1) : t.char_end + 40]
FROM (SELECT * FROM next_token ORDER BY loss DESC, example_id, seq, pos LIMIT 10) AS p
JOIN tokens AS t USING (example_id, seq, pos) JOIN examples AS e USING (example_id)
ORDER BY p.loss DESC, example_id, seq, pos

-- name: loss by tag of token_diagnostics
SELECT w.upos, count(loss), avg(loss)
FROM next_token AS p LEFT JOIN (
    SELECT t.example_id, t.seq, t.pos - 1 AS pos, w.upos FROM tokens AS t JOIN words AS w USING (example_id, word_idx)
) AS w USING (example_id, seq, pos)
GROUP BY w.upos ORDER BY w.upos
