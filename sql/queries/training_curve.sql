-- How did a model's training go? Loss (nats) and accuracy on every split that was measured, step by step.
-- run: the fine-tuning asked about
-- needs: training
SELECT
    step,
    round(epoch, 2) AS epoch,
    split,
    round(loss, 4) AS loss,
    round(accuracy, 4) AS accuracy,
    learning_rate
FROM training
WHERE run_id = getvariable('run')
ORDER BY step, split = 'train' DESC, split;
