-- chaos: what the engine committed and what was recovered, kept where it can neither be lost nor outlive a rollback:
-- in the transactions themselves.
--
-- Requires: track_commit_timestamp = on; the service's schema

CREATE SCHEMA chaos;

-- One row per match, written by the engine in the transaction that makes it. Each pair of lead and person occurs once.
CREATE TABLE chaos.match (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction integer NOT NULL,
    lead_id text NOT NULL,
    person_key uuid NOT NULL,
    UNIQUE (lead_id, person_key)
);
CREATE INDEX ON chaos.match (transaction);

-- One row per audit row written or written again, in the transaction that recovers.
CREATE TABLE chaos.recovery (
    lead_id text NOT NULL,
    person_key uuid NOT NULL,
    first_recovered_at timestamptz NOT NULL
);
CREATE INDEX ON chaos.recovery (lead_id, person_key);

CREATE FUNCTION chaos.witness() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO chaos.recovery VALUES (new.lead_id, new.recovered_person_key, new.first_recovered_at);
    RETURN NULL;
END
$$;

CREATE TRIGGER witness AFTER INSERT OR UPDATE ON ops.cabinet_lead_recovery_audit
FOR EACH ROW EXECUTE FUNCTION chaos.witness();

-- What counts of a lead's matches.
CREATE VIEW chaos.last_match AS
SELECT DISTINCT ON (lead_id) lead_id, person_key, pg_xact_commit_timestamp(xmin) AS committed_at
FROM chaos.match
ORDER BY lead_id, number DESC;

-- Matches that did not (yet) end as the rules say: the link is the match's person's; this person's origin is a lead's
-- that is still matched to it; and that lead's audit row says so.
CREATE VIEW chaos.lost AS
SELECT last_match.*
FROM chaos.last_match
LEFT JOIN canon.identity_links AS link
    ON link.source_table = 'module_ct_cabinet_leads' AND link.source_pk = last_match.lead_id
LEFT JOIN canon.identity_origin AS origin ON origin.person_key = last_match.person_key
LEFT JOIN chaos.last_match AS holder ON holder.lead_id = origin.origin_source_id
LEFT JOIN ops.cabinet_lead_recovery_audit AS audit ON audit.lead_id = origin.origin_source_id
WHERE (
    link.person_key = last_match.person_key
    AND origin.origin_tag::text = 'cabinet_lead'
    AND holder.person_key = last_match.person_key
    AND audit.recovered_person_key = last_match.person_key
) IS NOT TRUE;

-- What was done twice: a match recovered again, a first recovery that moved, a second row where one is right.
CREATE VIEW chaos.doubled AS
SELECT lead_id FROM chaos.recovery GROUP BY lead_id, person_key HAVING count(*) > 1
UNION ALL
SELECT lead_id FROM chaos.recovery GROUP BY lead_id HAVING count(DISTINCT first_recovered_at) > 1
UNION ALL
SELECT source_pk FROM canon.identity_links GROUP BY source_pk HAVING count(*) > 1
UNION ALL
SELECT lead_id FROM ops.cabinet_lead_recovery_audit GROUP BY lead_id HAVING count(*) > 1;

-- What nobody committed: the work of matches that were rolled back.
CREATE VIEW chaos.invented AS
SELECT source_pk AS lead_id, person_key FROM canon.identity_links
UNION
SELECT origin_source_id, person_key FROM canon.identity_origin WHERE origin_tag::text = 'cabinet_lead'
UNION
SELECT lead_id, recovered_person_key FROM ops.cabinet_lead_recovery_audit
EXCEPT
SELECT lead_id, person_key FROM chaos.match;

-- From commit to commit. A match that another one overtook, or whose person's origin is another lead's, has no end.
CREATE VIEW chaos.wait AS
SELECT
    match.lead_id,
    match.person_key,
    pg_xact_commit_timestamp(match.xmin) AS committed_at,
    recovered.at AS recovered_at,
    GREATEST(EXTRACT(EPOCH FROM recovered.at - pg_xact_commit_timestamp(match.xmin)), 0)::float8 AS seconds
FROM chaos.match
INNER JOIN (
    SELECT lead_id, person_key, min(pg_xact_commit_timestamp(xmin)) AS at FROM chaos.recovery GROUP BY 1, 2
) AS recovered ON recovered.lead_id = match.lead_id AND recovered.person_key = match.person_key;
