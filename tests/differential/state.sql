CREATE SCHEMA IF NOT EXISTS checks;
CREATE OR REPLACE FUNCTION checks.state(OUT definitions text, OUT contents text) LANGUAGE plpgsql
SET search_path = pg_catalog SET TimeZone = 'UTC' SET DateStyle = 'ISO, YMD' SET extra_float_digits = 1
SET bytea_output = 'hex' SET IntervalStyle = 'postgres' AS $$
DECLARE
  r record;
  part text;
BEGIN
  SELECT string_agg(line, E'\n' ORDER BY line COLLATE "C") INTO definitions FROM (
    SELECT format('relation %s.%s %s %s acl %s: %s', n.nspname, c.relname, c.relkind, c.relpersistence, c.relacl,
             (SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                       pg_get_expr(d.adbin, d.adrelid)), ', ' ORDER BY a.attnum)
              FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)) AS line
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^(pg_|information_schema|checks)'
    UNION ALL SELECT format('constraint %s %s', conname, pg_get_constraintdef(c.oid))
      FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace WHERE n.nspname !~ '^(pg_|information_schema|checks)'
    UNION ALL SELECT format('index %s', indexdef) FROM pg_indexes WHERE schemaname !~ '^(pg_|information_schema|checks)'
    UNION ALL SELECT format('view %s %s', viewname, definition) FROM pg_views WHERE schemaname !~ '^(pg_|information_schema|checks)'
    UNION ALL SELECT format('function %s', pg_get_functiondef(p.oid))
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname !~ '^(pg_|information_schema|checks)'
    UNION ALL SELECT format('trigger %s', pg_get_triggerdef(oid)) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT format('type %s %s', typname, typtype) FROM pg_type p JOIN pg_namespace n ON n.oid = p.typnamespace
      WHERE n.nspname !~ '^(pg_|information_schema|checks)'
    UNION ALL SELECT format('comment %s %s', objoid::regclass, description) FROM pg_description
      WHERE classoid = 'pg_class'::regclass AND objoid >= 16384
    UNION ALL SELECT format('schema %s %s', nspname, nspacl) FROM pg_namespace WHERE nspname !~ '^pg_'
    UNION ALL SELECT format('large object %s', oid) FROM pg_largeobject_metadata) x;
  contents := '';
  FOR r IN SELECT format('%I.%I', n.nspname, c.relname) AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^(pg_|information_schema|checks)' ORDER BY n.nspname::text || '.' || c.relname COLLATE "C"
  LOOP
    EXECUTE format('SELECT string_agg(t::text, '' '' ORDER BY t::text COLLATE "C") FROM %s t', r.name) INTO part;
    contents := concat(contents, r.name, ': ', part, E'\n');
  END LOOP;
END $$;
