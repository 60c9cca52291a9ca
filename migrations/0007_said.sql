-- Schema version 7: what a number rests on is said beside it.

COMMENT ON COLUMN judgements.refused IS 'The judge''s answer is that the response is a refusal; numbers may have been likely enough beside it for a score';
COMMENT ON COLUMN judgements.scored_by IS 'Of trait_score. probabilities: mean over the integers 0 to 100 by the judge''s probabilities; number: the number that it gave; NULL: neither';
COMMENT ON COLUMN judgements.number_mass IS 'Probability that it gave to numbers beside trait_answer; NULL: not told';
ALTER TABLE judgements ADD COLUMN trait_rule VARCHAR;
COMMENT ON COLUMN judgements.trait_rule IS 'How trait_answer was looked at. whole: by the probabilities of whole numbers, over all their tokens; tokens: by those of the integers in the place of one token; one-digit: the same, all of one digit, so that they are first digits if this judge cuts its numbers; digits: its number came in several tokens and counts as written; written: as written, no probabilities being told beside it; NULL: no answer';
ALTER TABLE judgements ADD COLUMN coherence_rule VARCHAR;
COMMENT ON COLUMN judgements.coherence_rule IS 'The same of coherence_answer';
