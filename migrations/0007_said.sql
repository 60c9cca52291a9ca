-- Schema version 7: what a number rests on is said beside it.

COMMENT ON COLUMN judgements.refused IS 'The judge''s answer is that the response is a refusal; numbers may have been likely enough beside it for a score';
COMMENT ON COLUMN judgements.scored_by IS 'Of trait_score. probabilities: mean over the integers 0 to 100 by the judge''s probabilities; number: the number that it gave; NULL: neither';
COMMENT ON COLUMN judgements.number_mass IS 'Probability that it gave to numbers beside trait_answer; NULL: not told';
ALTER TABLE judgements ADD COLUMN trait_rule VARCHAR;
COMMENT ON COLUMN judgements.trait_rule IS 'How trait_answer was looked at. whole: by the probabilities of whole numbers, over all their tokens; tokens: by those of the integers in the place of one token; one-digit: the same, all of one digit, so that they are first digits if this judge cuts its numbers; digits: its number came in several tokens and counts as written; written: as written, no probabilities being told beside it; NULL: no answer';
ALTER TABLE judgements ADD COLUMN coherence_rule VARCHAR;
COMMENT ON COLUMN judgements.coherence_rule IS 'The same of coherence_answer';
ALTER TABLE probes ADD COLUMN n_test_examples INTEGER;
COMMENT ON COLUMN probes.n_test_examples IS 'Examples that those tokens are of';
ALTER TABLE probes ADD COLUMN n_test_unknown INTEGER;
COMMENT ON COLUMN probes.n_test_unknown IS 'Test tokens with a label that no training token has: never right';
ALTER TABLE probes ADD COLUMN accuracy_low FLOAT;
COMMENT ON COLUMN probes.accuracy_low IS 'Lower end of its 95 % interval: Wilson''s, for as many independent tokens as the test examples are worth';
ALTER TABLE probes ADD COLUMN accuracy_high FLOAT;
COMMENT ON COLUMN probes.accuracy_high IS 'Upper end';
COMMENT ON COLUMN probes.shuffled_accuracy IS 'Accuracy on the test tokens after fitting to shuffled labels; mean of 10 since schema version 7';
ALTER TABLE probes ADD COLUMN shuffled_sd FLOAT;
COMMENT ON COLUMN probes.shuffled_sd IS 'Standard deviation of those';
