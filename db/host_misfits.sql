-- host_misfits: what the host's objects lack of what the service needs; no row where all is well.
--
-- Run by:  consumer migrate, before anything is touched, and by its script, as the role that migrates
-- Columns: misfit, a line for a person
-- Accepts: what works as well: any text type, any integer, an enum wherever it is, extra columns and labels, and a
--          database that has none of it

WITH host_column (relation, name, kind, is_written, values_needed) AS (
    VALUES
    ('public.module_ct_cabinet_leads', 'id', 'integer', FALSE, NULL::text[]),
    ('public.module_ct_cabinet_leads', 'external_id', 'text', FALSE, NULL),
    ('public.module_ct_cabinet_leads', 'lead_created_at', 'timestamp', FALSE, NULL),
    ('canon.identity_registry', 'person_key', 'uuid', FALSE, NULL),
    ('canon.identity_links', 'id', 'integer', FALSE, NULL),
    ('canon.identity_links', 'person_key', 'uuid', TRUE, NULL),
    ('canon.identity_links', 'source_table', 'text', TRUE, ARRAY['module_ct_cabinet_leads']),
    ('canon.identity_links', 'source_pk', 'text', TRUE, NULL),
    ('canon.identity_links', 'snapshot_date', 'timestamptz', TRUE, NULL),
    ('canon.identity_links', 'match_rule', 'text', TRUE, ARRAY['cabinet_recovery']),
    ('canon.identity_links', 'match_score', 'number', TRUE, NULL),
    ('canon.identity_links', 'confidence_level', 'word', TRUE, ARRAY['HIGH']),
    ('canon.identity_links', 'evidence', 'jsonb', TRUE, NULL),
    ('canon.identity_links', 'linked_at', 'timestamptz', TRUE, NULL),
    ('canon.identity_origin', 'person_key', 'uuid', TRUE, NULL),
    ('canon.identity_origin', 'origin_tag', 'word', TRUE, ARRAY['cabinet_lead']),
    ('canon.identity_origin', 'origin_source_id', 'text', TRUE, NULL),
    ('canon.identity_origin', 'origin_confidence', 'number', TRUE, NULL),
    ('canon.identity_origin', 'origin_created_at', 'timestamptz', TRUE, NULL),
    ('canon.identity_origin', 'evidence', 'jsonb', TRUE, NULL),
    -- What is only compared is needed as well: written otherwise, a decision by hand would not be known for one.
    ('canon.identity_origin', 'decided_by', 'word', TRUE, ARRAY['system', 'manual']),
    ('canon.identity_origin', 'decided_at', 'timestamptz', TRUE, NULL),
    (
        'canon.identity_origin', 'resolution_status', 'word', TRUE,
        ARRAY['resolved_auto', 'resolved_manual', 'discarded', 'marked_legacy']
    ),
    ('canon.identity_origin', 'created_at', 'timestamptz', TRUE, NULL),
    ('canon.identity_origin', 'updated_at', 'timestamptz', TRUE, NULL),
    ('ops.identity_matching_jobs', 'id', 'integer', FALSE, NULL),
    ('ops.identity_matching_jobs', 'source_type', 'word', FALSE, ARRAY['cabinet']),
    ('ops.identity_matching_jobs', 'source_id', 'text', FALSE, NULL),
    ('ops.identity_matching_jobs', 'status', 'word', FALSE, ARRAY['matched']),
    ('ops.identity_matching_jobs', 'matched_person_key', 'uuid', FALSE, NULL),
    ('ops.v_payment_calculation', 'person_key', 'uuid', FALSE, NULL),
    ('ops.v_payment_calculation', 'lead_date', 'date', FALSE, NULL),
    ('ops.v_payment_calculation', 'origin_tag', 'word', FALSE, ARRAY['cabinet']),
    ('ops.v_payment_calculation', 'milestone_trips', 'number', FALSE, NULL),
    ('ops.v_payment_calculation', 'milestone_achieved', 'boolean', FALSE, NULL),
    ('ops.v_payment_calculation', 'driver_id', 'any', FALSE, NULL),
    ('ops.cabinet_lead_recovery_audit', 'lead_id', 'text', TRUE, NULL),
    ('ops.cabinet_lead_recovery_audit', 'first_recovered_at', 'timestamptz', TRUE, NULL),
    ('ops.cabinet_lead_recovery_audit', 'last_recovered_at', 'timestamptz', TRUE, NULL),
    ('ops.cabinet_lead_recovery_audit', 'recovered_person_key', 'uuid', TRUE, NULL),
    ('ops.cabinet_lead_recovery_audit', 'recovered_by', 'text', TRUE, ARRAY['system']),
    ('ops.cabinet_lead_recovery_audit', 'recovery_method', 'text', TRUE, ARRAY['identity_link', 'matching_job']),
    ('ops.cabinet_lead_recovery_audit', 'updated_at', 'timestamptz', TRUE, NULL)
),

kind (name, type_names, in_words) AS (
    VALUES
    ('integer', ARRAY['int2', 'int4', 'int8'], 'an integer type'),
    ('number', ARRAY['int2', 'int4', 'int8', 'numeric', 'float4', 'float8'], 'a numeric type'),
    ('text', ARRAY['text', 'varchar'], 'text or varchar'),
    ('word', ARRAY['text', 'varchar'], 'an enum, text or varchar'),
    ('timestamp', ARRAY['timestamp'], 'timestamp without time zone'),
    ('timestamptz', ARRAY['timestamptz'], 'timestamp with time zone'),
    ('date', ARRAY['date'], 'date'),
    ('uuid', ARRAY['uuid'], 'uuid'),
    ('jsonb', ARRAY['jsonb'], 'jsonb'),
    ('boolean', ARRAY['bool'], 'boolean')
),

host_key (relation, columns) AS (
    VALUES
    ('public.module_ct_cabinet_leads', ARRAY['id']),
    ('public.module_ct_cabinet_leads', ARRAY['external_id']),
    ('canon.identity_registry', ARRAY['person_key']),
    ('canon.identity_links', ARRAY['source_table', 'source_pk']),
    ('canon.identity_origin', ARRAY['person_key']),
    ('ops.identity_matching_jobs', ARRAY['source_type', 'source_id']),
    ('ops.cabinet_lead_recovery_audit', ARRAY['lead_id'])
),

host_enum (name, labels) AS (
    VALUES
    ('confidencelevel', ARRAY['HIGH']),
    ('origin_tag', ARRAY['cabinet_lead']),
    ('decided_by_type', ARRAY['system', 'manual']),
    ('origin_resolution_status', ARRAY['resolved_auto', 'resolved_manual', 'discarded', 'marked_legacy'])
),

relation AS (
    SELECT
        wanted.name,
        found.oid,
        found.relkind,
        found.relowner,
        wanted.name = 'ops.v_payment_calculation' AS is_read_only,
        wanted.name = 'ops.cabinet_lead_recovery_audit' AS is_optional
    FROM (SELECT DISTINCT host_column.relation AS name FROM host_column) AS wanted
    LEFT JOIN pg_class AS found ON found.oid = to_regclass(wanted.name)
),

host_is_here AS (
    SELECT bool_or(relation.oid IS NOT NULL) AS it_is
    FROM relation
    WHERE NOT relation.is_optional
),

attribute AS (
    SELECT
        host_column.*,
        relation.oid AS relation_oid,
        found.attnum,
        found.atttypmod,
        found.attgenerated <> '' OR found.attidentity = 'a' AS is_generated,
        base.typname,
        base.typtype,
        base.oid AS base_oid,
        format_type(found.atttypid, found.atttypmod) AS type_in_words
    FROM host_column
    INNER JOIN relation ON host_column.relation = relation.name AND relation.oid IS NOT NULL
    LEFT JOIN pg_attribute AS found
        ON relation.oid = found.attrelid AND host_column.name = found.attname AND NOT found.attisdropped
    LEFT JOIN pg_type AS declared ON found.atttypid = declared.oid
    LEFT JOIN pg_type AS base ON coalesce(nullif(declared.typbasetype, 0), declared.oid) = base.oid
),

misfit (place, misfit) AS (
    SELECT
        '0',
        'PostgreSQL ' || current_setting('server_version') || ' is too old: 15 or later is needed'
    WHERE current_setting('server_version_num')::integer < 150000
    UNION ALL
    SELECT
        relation.name,
        relation.name || ' is missing, though others of the host''s objects are here' || coalesce(
            ' (there is ' || (
                SELECT string_agg(other.relnamespace::regnamespace || '.' || other.relname, ', ')
                FROM pg_class AS other
                WHERE other.relname = split_part(relation.name, '.', 2) AND other.relkind IN ('r', 'p', 'v', 'm', 'f')
            ) || ')', ''
        )
    FROM relation
    CROSS JOIN host_is_here
    WHERE relation.oid IS NULL AND host_is_here.it_is AND NOT relation.is_optional
    UNION ALL
    SELECT
        relation.name,
        relation.name || CASE relation.relkind
            WHEN 'p' THEN ' is a partitioned table, on which no index can be built beside its writes'
            ELSE ' is no table'
        END
    FROM relation
    WHERE
        NOT relation.is_read_only
        AND relation.relkind <> 'r'
        AND (relation.relkind <> 'p' OR relation.name = 'public.module_ct_cabinet_leads')
    UNION ALL
    SELECT
        attribute.relation,
        attribute.relation || ' has no column ' || attribute.name
    FROM attribute
    WHERE attribute.attnum IS NULL
    UNION ALL
    SELECT
        attribute.relation,
        attribute.relation || '.' || attribute.name || ' is ' || attribute.type_in_words || ', not ' || kind.in_words
    FROM attribute
    INNER JOIN kind ON attribute.kind = kind.name
    WHERE
        attribute.typname <> all(kind.type_names) AND (attribute.kind = 'word' AND attribute.typtype = 'e') IS NOT TRUE
    UNION ALL
    SELECT
        attribute.relation,
        attribute.relation || '.' || attribute.name || ' is ' || attribute.type_in_words || ', which has no value '
        || quote_literal(value_needed.label)
    FROM attribute
    CROSS JOIN unnest(attribute.values_needed) AS value_needed (label)
    WHERE
        attribute.typtype = 'e'
        AND NOT EXISTS (
            SELECT FROM pg_enum AS known
            WHERE known.enumtypid = attribute.base_oid AND known.enumlabel = value_needed.label
        )
    UNION ALL
    SELECT
        attribute.relation,
        attribute.relation || '.' || attribute.name || ' is ' || attribute.type_in_words || ', too short for '
        || quote_literal(value_needed.label)
    FROM attribute
    CROSS JOIN unnest(attribute.values_needed) AS value_needed (label)
    WHERE
        attribute.typname = 'varchar'
        AND attribute.atttypmod > 0
        AND attribute.atttypmod - 4 < length(value_needed.label)
    UNION ALL
    SELECT
        attribute.relation,
        attribute.relation || '.' || attribute.name || ' is ' || attribute.type_in_words || ', too small for 95'
    FROM attribute
    WHERE
        attribute.is_written
        AND attribute.typname = 'numeric'
        AND attribute.atttypmod > 0
        AND ((attribute.atttypmod - 4) >> 16) - ((attribute.atttypmod - 4) & 2047) < 2
    UNION ALL
    SELECT
        attribute.relation,
        attribute.relation || '.' || attribute.name || ' is generated and cannot be written'
    FROM attribute
    WHERE attribute.is_written AND attribute.is_generated
    UNION ALL
    SELECT
        relation.name,
        relation.name || '.' || other.attname || ' is NOT NULL without a default, and the service does not know it'
    FROM relation
    INNER JOIN pg_attribute AS other ON relation.oid = other.attrelid
    WHERE
        EXISTS (
            SELECT FROM host_column
            WHERE host_column.relation = relation.name AND host_column.is_written
        )
        AND other.attnum > 0
        AND other.attnotnull
        AND NOT other.attisdropped
        AND NOT other.atthasdef
        AND other.attidentity = ''
        AND NOT EXISTS (
            SELECT FROM host_column
            WHERE host_column.relation = relation.name AND host_column.name = other.attname AND host_column.is_written
        )
        -- A trigger of the host's may fill it (type: before, row, insert).
        AND NOT EXISTS (
            SELECT FROM pg_trigger AS filler
            WHERE filler.tgrelid = relation.oid AND filler.tgtype & 7 = 7 AND filler.tgenabled <> 'D'
        )
    UNION ALL
    SELECT
        host_key.relation,
        host_key.relation || ' has no unique index on (' || array_to_string(host_key.columns, ', ') || ')'
    FROM host_key
    INNER JOIN relation ON host_key.relation = relation.name AND relation.relkind IN ('r', 'p')
    WHERE
        NOT EXISTS (
            SELECT FROM attribute
            WHERE
                attribute.relation = host_key.relation
                AND attribute.name = any(host_key.columns)
                AND attribute.attnum IS NULL
        )
        AND NOT EXISTS (
            SELECT FROM pg_index AS candidate
            WHERE
                candidate.indrelid = relation.oid
                AND candidate.indisunique
                AND candidate.indisvalid
                AND candidate.indimmediate
                AND candidate.indexprs IS NULL
                AND (
                    candidate.indpred IS NULL
                    OR (
                        host_key.columns = ARRAY['external_id']
                        AND pg_get_expr(candidate.indpred, candidate.indrelid) = '(external_id IS NOT NULL)'
                    )
                )
                AND (
                    SELECT array_agg(member.attname::text ORDER BY member.attname)
                    FROM pg_attribute AS member
                    WHERE
                        member.attrelid = candidate.indrelid
                        AND member.attnum = any((candidate.indkey::smallint[])[0:candidate.indnkeyatts - 1])
                ) = (SELECT array_agg(wanted ORDER BY wanted) FROM unnest(host_key.columns) AS wanted)
        )
    UNION ALL
    -- Where the tables are missing too they are made, with the types that are there.
    SELECT
        'enum',
        'the type ' || found.typnamespace::regnamespace || '.' || host_enum.name
        || ' is not what the tables that would be created need: an enum in the search_path, with '
        || array_to_string(host_enum.labels, ', ')
    FROM host_enum
    INNER JOIN pg_type AS found ON host_enum.name = found.typname
    CROSS JOIN host_is_here
    WHERE
        NOT host_is_here.it_is
        AND NOT EXISTS (
            SELECT FROM pg_type AS usable
            WHERE
                usable.oid = to_regtype(host_enum.name)
                AND array(
                    SELECT known.enumlabel::text FROM pg_enum AS known
                    WHERE known.enumtypid = usable.oid
                ) @> host_enum.labels
        )
    UNION ALL
    SELECT
        relation.name,
        relation.name || ' belongs to another role: only its owner may build the index'
    FROM relation
    WHERE
        relation.name = 'public.module_ct_cabinet_leads'
        AND NOT pg_has_role(relation.relowner, 'USAGE')
        AND to_regclass('public.ix_cabinet_recovery_lead_id') IS NULL
    UNION ALL
    SELECT
        relation.name,
        'the role ' || current_user || ' may not create triggers on ' || relation.name
    FROM relation
    WHERE
        relation.name IN ('canon.identity_links', 'ops.identity_matching_jobs')
        AND relation.relkind IN ('r', 'p')
        AND NOT has_table_privilege(relation.oid, 'TRIGGER')
    UNION ALL
    SELECT
        'ops',
        'the role ' || current_user || ' may not create anything in the schema ops'
    WHERE NOT has_schema_privilege(to_regnamespace('ops'), 'CREATE')
)

SELECT misfit.misfit
FROM misfit
ORDER BY misfit.place, misfit.misfit
