TRUNCATE t, u, nokey, d, m, log;
INSERT INTO t VALUES (1, 10, 'one', 1.5), (2, 20, 'two', 2.5), (3, 30, NULL, 0), (4, NULL, 'four', -1), (5, 50, 'five', 5);
INSERT INTO u VALUES ('a', 1, 1), ('b', 2, 2), ('c', 3, NULL);
INSERT INTO nokey VALUES (1, 'x'), (1, 'x'), (2, NULL);
INSERT INTO d VALUES (1, 1), (2, 2), (3, 3);
INSERT INTO m VALUES (1, 'ok', '{1,2}', '{"k": [1, null]}', '2020-02-29 12:00+00', '\x00ff', 0.1), (2, NULL, NULL, NULL, NULL, NULL, NULL);
TRUNCATE log;
