//! What main is asked about a database.
//!
//! The queries run as a superuser, and a database's owner may set its search_path: hence every function, type and
//! operator is qualified, and there is no IN, LIKE or JOIN USING, which look operators up by search_path.
//!
//! Only what users have made comes one by one (OIDs from 16384), and those built-ins that are not plain; the rest is a
//! few rows of names. pg_depend does not record uses of built-in functions such as nextval(), so what views, policies
//! and domain checks use is taken from their stored trees (nodes/primnodes.h; the fields are called the same in 12 to
//! 18).

/// Names of built-ins, one row per kind: immutable functions (f), operators (o), relations (r), types (t).
/// Columns: kind, names with blanks between.
const BUILTINS: &str = "\
SELECT 'f', pg_catalog.string_agg(DISTINCT p.proname::pg_catalog.text, ' ') FROM pg_catalog.pg_proc p
 WHERE p.oid OPERATOR(pg_catalog.<) 16384 AND p.provolatile OPERATOR(pg_catalog.=) 'i'
UNION ALL
SELECT 'o', pg_catalog.string_agg(DISTINCT o.oprname::pg_catalog.text, ' ') FROM pg_catalog.pg_operator o
 WHERE o.oid OPERATOR(pg_catalog.<) 16384
UNION ALL
SELECT 'r', pg_catalog.string_agg(DISTINCT c.relname::pg_catalog.text, ' ') FROM pg_catalog.pg_class c
 WHERE c.oid OPERATOR(pg_catalog.<) 16384 AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,v}'::pg_catalog.\"char\"[])
UNION ALL
SELECT 't', pg_catalog.string_agg(DISTINCT t.typname::pg_catalog.text, ' ') FROM pg_catalog.pg_type t
 WHERE t.oid OPERATOR(pg_catalog.<) 16384 AND t.typrelid OPERATOR(pg_catalog.=) 0";

/// Functions of users, and built-ins that are not immutable or whose names begin with pg_.
/// Columns: OID, schema, name, volatility, may be called with one argument, argument types, result types, support
/// functions (of an aggregate: it is always marked immutable, whatever they are).
const FUNCTIONS: &str = "\
SELECT p.oid, n.nspname, p.proname, p.provolatile,
 p.pronargs OPERATOR(pg_catalog.>) 0
  AND p.pronargs OPERATOR(pg_catalog.-) p.pronargdefaults OPERATOR(pg_catalog.<=) 1,
 p.proargtypes,
 pg_catalog.concat_ws(' ', p.prorettype, pg_catalog.array_to_string(p.proallargtypes, ' ')),
 pg_catalog.concat_ws(' ', a.aggtransfn::pg_catalog.oid, a.aggfinalfn::pg_catalog.oid, a.aggcombinefn::pg_catalog.oid,
  a.aggserialfn::pg_catalog.oid, a.aggdeserialfn::pg_catalog.oid, a.aggmtransfn::pg_catalog.oid,
  a.aggminvtransfn::pg_catalog.oid, a.aggmfinalfn::pg_catalog.oid)
 FROM pg_catalog.pg_proc p
 JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
 LEFT JOIN pg_catalog.pg_aggregate a
  ON a.aggfnoid OPERATOR(pg_catalog.=) p.oid AND p.oid OPERATOR(pg_catalog.>=) 16384
 WHERE p.oid OPERATOR(pg_catalog.>=) 16384 OR p.provolatile OPERATOR(pg_catalog.<>) 'i'
  OR p.proname OPERATOR(pg_catalog.~) '^_?pg_'";

/// Operators of users. Columns: OID, name, function, left and right type.
const OPERATORS: &str = "\
SELECT o.oid, o.oprname, o.oprcode::pg_catalog.oid, o.oprleft, o.oprright FROM pg_catalog.pg_operator o
 WHERE o.oid OPERATOR(pg_catalog.>=) 16384";

/// Relations of users, but for temporary ones (whose sessions know them); composite types too, for their columns.
/// Columns: OID, name, kind, row security, column types.
const RELATIONS: &str = "\
SELECT c.oid, c.relname, c.relkind, c.relrowsecurity,
 pg_catalog.string_agg(DISTINCT a.atttypid::pg_catalog.text, ' ') FROM pg_catalog.pg_class c
 LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
  AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
 WHERE c.oid OPERATOR(pg_catalog.>=) 16384 AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
  AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S,c}'::pg_catalog.\"char\"[])
 GROUP BY c.oid, c.relname, c.relkind, c.relrowsecurity";

/// Types of users, and built-in ones whose values are each node's own. Columns: OID, name, has a name of its own (a
/// table's row type has the table's), types it is made of, relation whose columns it has (0: none). A multirange's
/// range is asked for by way of jsonb: before version 14 there is no such column.
const TYPES: &str = "\
SELECT t.oid, t.typname,
 COALESCE(c.relkind, ec.relkind, 'c') OPERATOR(pg_catalog.=) 'c',
 pg_catalog.concat_ws(' ', t.typbasetype, t.typelem, r.rngsubtype, m.rngtypid), t.typrelid
 FROM pg_catalog.pg_type t
 LEFT JOIN pg_catalog.pg_range r ON r.rngtypid OPERATOR(pg_catalog.=) t.oid
 LEFT JOIN pg_catalog.pg_range m
  ON (pg_catalog.to_jsonb(m) OPERATOR(pg_catalog.->>) 'rngmultitypid')::pg_catalog.oid OPERATOR(pg_catalog.=) t.oid
 LEFT JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) t.typrelid
 LEFT JOIN pg_catalog.pg_type e ON e.oid OPERATOR(pg_catalog.=) t.typelem
 LEFT JOIN pg_catalog.pg_class ec ON ec.oid OPERATOR(pg_catalog.=) e.typrelid
 WHERE t.oid OPERATOR(pg_catalog.>=) 16384
  OR t.typname OPERATOR(pg_catalog.~) 
   '^_?(aclitem|oid|oidvector|xid|xid8|cid|tid|pg_lsn|pg_snapshot|txid_snapshot|reg[a-z]+)$'";

/// Functions that PostgreSQL calls on values of a type without being told: casts, input and output, operator classes,
/// ranges. Columns: type, function. A cast belongs to the type that a user has made.
const HOOKS: &str = "\
SELECT CASE WHEN c.casttarget OPERATOR(pg_catalog.>=) 16384 THEN c.casttarget ELSE c.castsource END, c.castfunc
 FROM pg_catalog.pg_cast c WHERE c.oid OPERATOR(pg_catalog.>=) 16384 AND c.castfunc OPERATOR(pg_catalog.<>) 0
UNION
SELECT c.castsource, c.castfunc FROM pg_catalog.pg_cast c
 WHERE c.castsource OPERATOR(pg_catalog.>=) 16384 AND c.castfunc OPERATOR(pg_catalog.<>) 0
UNION
SELECT t.oid, f FROM pg_catalog.pg_type t, LATERAL pg_catalog.unnest(ARRAY[t.typinput::pg_catalog.oid,
  t.typoutput::pg_catalog.oid, t.typreceive::pg_catalog.oid, t.typsend::pg_catalog.oid,
  t.typmodin::pg_catalog.oid, t.typmodout::pg_catalog.oid]) f
 WHERE t.oid OPERATOR(pg_catalog.>=) 16384 AND f OPERATOR(pg_catalog.>=) 16384
UNION
SELECT r.rngtypid, f FROM pg_catalog.pg_range r,
  LATERAL pg_catalog.unnest(ARRAY[r.rngcanonical::pg_catalog.oid, r.rngsubdiff::pg_catalog.oid]) f
 WHERE f OPERATOR(pg_catalog.>=) 16384
UNION
SELECT t, a.amproc::pg_catalog.oid FROM pg_catalog.pg_amproc a,
  LATERAL pg_catalog.unnest(ARRAY[a.amproclefttype, a.amprocrighttype]) t
 WHERE a.oid OPERATOR(pg_catalog.>=) 16384
UNION
SELECT t, o.oprcode::pg_catalog.oid FROM pg_catalog.pg_amop a
 JOIN pg_catalog.pg_operator o ON o.oid OPERATOR(pg_catalog.=) a.amopopr,
  LATERAL pg_catalog.unnest(ARRAY[a.amoplefttype, a.amoprighttype]) t
 WHERE a.oid OPERATOR(pg_catalog.>=) 16384";

/// What views, policies, domain checks and default arguments use, by their stored trees, and the children of tables.
/// Columns: kind of the user (r relation, t type, f function), its OID, field of the tree with its values.
///
/// The trees are cut at their fields' colons (a blank inside a name has a backslash in front of it): for 500 views that
/// took 70 ms on a busy machine, a regular expression 200 to 400.
const USES: &str = "\
SELECT DISTINCT s.kind, s.oid, pg_catalog.split_part(pg_catalog.split_part(f, '}', 1), ')', 1) FROM (
  SELECT 'r' AS kind, r.ev_class AS oid, r.ev_action::pg_catalog.text AS tree FROM pg_catalog.pg_rewrite r
   JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) r.ev_class
   WHERE c.oid OPERATOR(pg_catalog.>=) 16384 AND c.relkind OPERATOR(pg_catalog.=) 'v'
  UNION ALL
  SELECT 'r', p.polrelid, p.polqual::pg_catalog.text FROM pg_catalog.pg_policy p
   JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.polrelid AND c.relrowsecurity
  UNION ALL
  SELECT 't', k.contypid, k.conbin::pg_catalog.text FROM pg_catalog.pg_constraint k
   WHERE k.contypid OPERATOR(pg_catalog.>=) 16384
  UNION ALL
  SELECT 'f', f.oid, f.proargdefaults::pg_catalog.text FROM pg_catalog.pg_proc f
   WHERE f.oid OPERATOR(pg_catalog.>=) 16384 AND f.proargdefaults IS NOT NULL
 ) s, LATERAL pg_catalog.unnest(pg_catalog.string_to_array(s.tree, ' :')) f
 WHERE pg_catalog.split_part(f, ' ', 1) OPERATOR(pg_catalog.=) ANY ('{funcid,aggfnoid,winfnoid,tsmhandler,opno,opnos,eqop,
sortop,relid,consttype,resulttype,minmaxtype,typid,row_typeid,array_typeid,funccoltypes,coltypes,
strength}'::pg_catalog.text[]) OR pg_catalog.starts_with(f, 'varattno -')
UNION ALL
SELECT 'r', i.inhparent, pg_catalog.concat('relid ', i.inhrelid) FROM pg_catalog.pg_inherits i
 JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) i.inhrelid
 WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,f}'::pg_catalog.\"char\"[])";

/// Whether some constraint, or constraint trigger, may be deferred to COMMIT.
const DEFERRABLE: &str = "\
SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.condeferrable)
 OR EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgdeferrable)";

/// Tables that are not temporary, and whatever else may stand where a table's name does. Columns: OID, schema, name,
/// whether it is a table to which nothing but the statement itself writes (rules, row security, triggers of users and
/// children; of a partitioned table, foreign partitions too); roles that may log in and read all of its columns, insert
/// into all of them, update all of them, a line each; whether all of a changed row is in the WAL (REPLICA IDENTITY FULL);
/// whether by a foreign key a DELETE, or an UPDATE, changes rows of a table with triggers of users or rules, or gives
/// them defaults; why it is no table to which nothing but the statement writes, a line for each reason
/// ([`crate::sql::reason::Obstacle::read`]); whether it is an ordinary table and no partition; whether a foreign key's action
/// follows from what is done to its rows.
///
/// No function that opens a relation is called, here and below (pg_get_expr and pg_partition_tree do): a transaction that
/// has altered a table holds it locked, and everybody would wait for that one.
const TABLES: &str = "\
WITH RECURSIVE tree AS (
  SELECT c.oid AS root, c.oid AS relation FROM pg_catalog.pg_class c WHERE c.relkind OPERATOR(pg_catalog.=) 'p'
  UNION ALL
  SELECT t.root, i.inhrelid FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) t.relation),
 reach AS (
  SELECT k.confrelid AS root, k.conrelid AS child, a.deletes, a.action FROM pg_catalog.pg_constraint k,
   LATERAL (SELECT true AS deletes, k.confdeltype AS action UNION ALL SELECT false, k.confupdtype) a
   WHERE k.contype OPERATOR(pg_catalog.=) 'f' AND a.action OPERATOR(pg_catalog.=) ANY ('{c,n,d}'::pg_catalog.\"char\"[])
  UNION
  SELECT r.root, k.conrelid, r.deletes, a.action FROM reach r
   JOIN pg_catalog.pg_constraint k ON k.confrelid OPERATOR(pg_catalog.=) r.child AND k.contype OPERATOR(pg_catalog.=) 'f',
   LATERAL (SELECT k.confdeltype AS action UNION ALL SELECT k.confupdtype) a
   WHERE a.action OPERATOR(pg_catalog.=) ANY ('{c,n,d}'::pg_catalog.\"char\"[])),
 fires AS (
  SELECT DISTINCT r.root, r.deletes FROM reach r JOIN pg_catalog.pg_class f ON f.oid OPERATOR(pg_catalog.=) r.child
   WHERE r.action OPERATOR(pg_catalog.=) 'd' OR f.relhasrules OR EXISTS (SELECT FROM pg_catalog.pg_trigger g
    WHERE g.tgrelid OPERATOR(pg_catalog.=) r.child AND NOT g.tgisinternal))
SELECT c.oid, n.nspname, c.relname,
 c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog.\"char\"[]) AND NOT c.relrowsecurity AND NOT c.relhasrules
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_trigger g
   WHERE g.tgrelid OPERATOR(pg_catalog.=) c.oid AND NOT g.tgisinternal)
  AND CASE c.relkind WHEN 'p' THEN NOT EXISTS (
    SELECT FROM tree t JOIN pg_catalog.pg_class f ON f.oid OPERATOR(pg_catalog.=) t.relation
     LEFT JOIN pg_catalog.pg_trigger g ON g.tgrelid OPERATOR(pg_catalog.=) f.oid AND NOT g.tgisinternal
     WHERE t.root OPERATOR(pg_catalog.=) c.oid
      AND (f.relkind OPERATOR(pg_catalog.=) 'f' OR f.relhasrules OR g.oid IS NOT NULL))
   ELSE NOT c.relhassubclass END,
 (SELECT pg_catalog.string_agg(r.rolname::pg_catalog.text, pg_catalog.chr(10)) FROM pg_catalog.pg_roles r
   WHERE r.rolcanlogin AND pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT')),
 (SELECT pg_catalog.string_agg(r.rolname::pg_catalog.text, pg_catalog.chr(10)) FROM pg_catalog.pg_roles r
   WHERE r.rolcanlogin AND pg_catalog.has_table_privilege(r.oid, c.oid, 'INSERT')),
 (SELECT pg_catalog.string_agg(r.rolname::pg_catalog.text, pg_catalog.chr(10)) FROM pg_catalog.pg_roles r
   WHERE r.rolcanlogin AND pg_catalog.has_table_privilege(r.oid, c.oid, 'UPDATE')),
 c.relreplident OPERATOR(pg_catalog.=) 'f',
 EXISTS (SELECT FROM fires x WHERE x.root OPERATOR(pg_catalog.=) c.oid AND x.deletes),
 EXISTS (SELECT FROM fires x WHERE x.root OPERATOR(pg_catalog.=) c.oid AND NOT x.deletes),
 pg_catalog.concat_ws(pg_catalog.chr(10),
  CASE WHEN c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog.\"char\"[]) THEN NULL ELSE c.relkind::pg_catalog.text END,
  CASE WHEN c.relrowsecurity THEN 's' END,
  (SELECT pg_catalog.string_agg(pg_catalog.concat('r ', w.rulename), pg_catalog.chr(10) ORDER BY w.rulename) FROM pg_catalog.pg_rewrite w
   WHERE c.relhasrules AND w.ev_class OPERATOR(pg_catalog.=) c.oid AND c.relkind OPERATOR(pg_catalog.=) 'r'),
  (SELECT pg_catalog.string_agg(pg_catalog.concat('t ', g.tgname), pg_catalog.chr(10) ORDER BY g.tgname) FROM pg_catalog.pg_trigger g
   WHERE g.tgrelid OPERATOR(pg_catalog.=) c.oid AND NOT g.tgisinternal),
  CASE WHEN c.relkind OPERATOR(pg_catalog.=) 'r' AND c.relhassubclass THEN 'c' END,
  (SELECT pg_catalog.string_agg(CASE WHEN f.relkind OPERATOR(pg_catalog.=) 'f' THEN 'f'
     WHEN g.oid IS NULL THEN 'r' ELSE pg_catalog.concat('t ', g.tgname, ' on partition ', f.relname) END, pg_catalog.chr(10))
    FROM tree t JOIN pg_catalog.pg_class f ON f.oid OPERATOR(pg_catalog.=) t.relation
     LEFT JOIN pg_catalog.pg_trigger g ON g.tgrelid OPERATOR(pg_catalog.=) f.oid AND NOT g.tgisinternal
    WHERE t.root OPERATOR(pg_catalog.=) c.oid AND f.oid OPERATOR(pg_catalog.<>) c.oid
     AND (f.relkind OPERATOR(pg_catalog.=) 'f' OR f.relhasrules OR g.oid IS NOT NULL))),
 c.relkind OPERATOR(pg_catalog.=) 'r' AND NOT c.relispartition,
 EXISTS (SELECT FROM reach x WHERE x.root OPERATOR(pg_catalog.=) c.oid)
 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE c.oid OPERATOR(pg_catalog.>=) 16384 AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
  AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p,v,m,f,S}'::pg_catalog.\"char\"[])";

/// Their columns, in order. Columns: OID of the table, name, type, generated, identity (a: always, d: by default), place
/// in the primary key; whether there is a default (the domain's if the column has none), whether it has a part that is
/// evaluated anew (CURRENT_TIMESTAMP, casts by way of text), functions that it calls; the sequence of the default, its
/// increment and its start (none that begins anew at its end); values of the type carry OIDs that are each node's own
/// when they travel in binary (arrays, ranges and records of users' types); values of the type are floating-point numbers
/// or intervals, or made of such, or may be (users' types but for enums and domains over others): 700 float4, 701 float8,
/// 600 to 603 point, lseg, path, box, 604 polygon, 628 line, 718 circle, 1186 interval, and arrays of these (pg_type.dat).
const COLUMNS: &str = "\
SELECT a.attrelid, a.attname, a.atttypid, a.attgenerated OPERATOR(pg_catalog.<>) '', a.attidentity, k.place,
 e.tree IS NOT NULL, e.tree OPERATOR(pg_catalog.~) '[{](SQLVALUEFUNCTION|NEXTVALUEEXPR|COERCEVIAIO|SUBLINK|XMLEXPR)',
 (SELECT pg_catalog.string_agg(pg_catalog.split_part(f, ' ', 2), ' ')
   FROM pg_catalog.unnest(pg_catalog.string_to_array(e.tree, ' :')) f
   WHERE pg_catalog.split_part(f, ' ', 1) OPERATOR(pg_catalog.=) ANY ('{funcid,opfuncid}'::pg_catalog.text[])),
 q.name, q.increment, q.start,
 t.oid OPERATOR(pg_catalog.>=) 16384 AND (t.typtype OPERATOR(pg_catalog.=) ANY ('{c,r,m,p}'::pg_catalog.\"char\"[])
  OR t.typcategory OPERATOR(pg_catalog.=) 'A' OR t.typbasetype OPERATOR(pg_catalog.>=) 16384)
 OR EXISTS (SELECT FROM pg_catalog.pg_type b WHERE b.typname OPERATOR(pg_catalog.~) '^_?reg[a-z]+$'
  AND b.oid OPERATOR(pg_catalog.<) 16384 AND b.oid OPERATOR(pg_catalog.=) ANY (ARRAY[t.oid, t.typbasetype])),
 o.own OR o.base OPERATOR(pg_catalog.=) ANY ('{700,701,600,601,602,603,604,628,718,1021,1022,1017,1018,1019,1020,1027,629,719}'::pg_catalog.oid[]),
 o.own OR o.base OPERATOR(pg_catalog.=) ANY ('{1186,1187}'::pg_catalog.oid[])
 FROM pg_catalog.pg_attribute a
 JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
 JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a.atttypid
 CROSS JOIN LATERAL (SELECT b.base, b.base OPERATOR(pg_catalog.>=) 16384 AND t.typtype OPERATOR(pg_catalog.<>) 'e' AS own
  FROM (SELECT CASE WHEN t.typtype OPERATOR(pg_catalog.=) 'd' THEN t.typbasetype ELSE t.oid END AS base) b) o
 LEFT JOIN pg_catalog.pg_attrdef d
  ON d.adrelid OPERATOR(pg_catalog.=) a.attrelid AND d.adnum OPERATOR(pg_catalog.=) a.attnum
 LEFT JOIN LATERAL (SELECT COALESCE(d.adbin::pg_catalog.text, t.typdefaultbin::pg_catalog.text) AS tree
  WHERE a.attgenerated OPERATOR(pg_catalog.=) '') e ON true
 LEFT JOIN LATERAL (SELECT u.ordinality AS place FROM pg_catalog.pg_index i,
   LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY u
  WHERE i.indrelid OPERATOR(pg_catalog.=) a.attrelid AND i.indisprimary AND i.indisvalid AND i.indimmediate
   AND u.u OPERATOR(pg_catalog.=) a.attnum AND u.ordinality OPERATOR(pg_catalog.<=) i.indnkeyatts) k ON true
 LEFT JOIN (SELECT DISTINCT ON (u.relation, u.attnum) u.relation, u.attnum, u.increment, u.start,
   pg_catalog.concat(pg_catalog.quote_ident(sn.nspname), '.', pg_catalog.quote_ident(sc.relname)) AS name FROM (
    SELECT f.adrelid AS relation, f.adnum::pg_catalog.int4 AS attnum, s.seqrelid, s.seqincrement AS increment, s.seqstart AS start
     FROM pg_catalog.pg_attrdef f
     JOIN pg_catalog.pg_depend e
      ON e.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_attrdef'::pg_catalog.regclass::pg_catalog.oid
      AND e.objid OPERATOR(pg_catalog.=) f.oid
     JOIN pg_catalog.pg_sequence s ON s.seqrelid OPERATOR(pg_catalog.=) e.refobjid AND NOT s.seqcycle
    UNION ALL
    SELECT e.refobjid, e.refobjsubid, s.seqrelid, s.seqincrement, s.seqstart
     FROM pg_catalog.pg_sequence s
     JOIN pg_catalog.pg_depend e
      ON e.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
      AND e.objid OPERATOR(pg_catalog.=) s.seqrelid AND e.deptype OPERATOR(pg_catalog.=) 'i'
     WHERE NOT s.seqcycle
   ) u
   JOIN pg_catalog.pg_class sc ON sc.oid OPERATOR(pg_catalog.=) u.seqrelid
   JOIN pg_catalog.pg_namespace sn ON sn.oid OPERATOR(pg_catalog.=) sc.relnamespace
   ORDER BY u.relation, u.attnum, u.seqrelid) q
  ON q.relation OPERATOR(pg_catalog.=) a.attrelid AND q.attnum OPERATOR(pg_catalog.=) a.attnum::pg_catalog.int4
 WHERE c.oid OPERATOR(pg_catalog.>=) 16384 AND c.relpersistence OPERATOR(pg_catalog.<>) 't'
  AND c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog.\"char\"[])
  AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum";

/// All of them; [`super::catalogue`] takes their rows in this order.
pub(super) const ALL: [&str; 10] =
    [BUILTINS, FUNCTIONS, OPERATORS, RELATIONS, TYPES, HOOKS, USES, DEFERRABLE, TABLES, COLUMNS];
