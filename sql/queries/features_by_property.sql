-- Which features of a dictionary go with which part of speech, label, role or being right?
-- run (features-associations): the tests of a dictionary's features
-- needs: feature_associations
--
-- The ten features of each value that are most surely active at more of its tokens than of the others, where the rate of false discoveries is
-- at most 5 %. share and elsewhere are the parts of the tokens that a feature is active at, with that value and without.
WITH found AS (
    SELECT
        a.*,
        row_number() OVER (PARTITION BY a.sae, a.property, a.value ORDER BY a.z DESC, a.feature) AS place
    FROM feature_associations AS a
    WHERE a.run_id = getvariable('run') AND a.q_value <= 0.05 AND a.z > 0
)
SELECT
    property,
    value,
    sae,
    feature,
    round(n_active / n_tokens, 4) AS share,
    round(n_other_active / n_other_tokens, 4) AS elsewhere,
    n_tokens,
    n_examples,
    round(z, 2) AS z,
    q_value
FROM found
WHERE place <= 10
ORDER BY property, value, z DESC, sae, feature;
