-- How often is the true token among the k most probable? Every run, for k = 1, 3, 5, 10, 100, 1000.
-- needs: next_token
--
-- By token of each run's own tokenizer: runs whose tokenizers cut the text alike can be held against each other so. For others there
-- is runs.bits_per_byte.
SELECT
    run_id,
    count(*) AS predictions,
    round(avg(CAST(true_rank <= 1 AS INTEGER)), 4) AS top_1,
    round(avg(CAST(true_rank <= 3 AS INTEGER)), 4) AS top_3,
    round(avg(CAST(true_rank <= 5 AS INTEGER)), 4) AS top_5,
    round(avg(CAST(true_rank <= 10 AS INTEGER)), 4) AS top_10,
    round(avg(CAST(true_rank <= 100 AS INTEGER)), 4) AS top_100,
    round(avg(CAST(true_rank <= 1000 AS INTEGER)), 4) AS top_1000,
    round(avg(1 / true_rank), 4) AS mean_reciprocal_rank
FROM next_token
GROUP BY run_id
ORDER BY top_1 DESC;
