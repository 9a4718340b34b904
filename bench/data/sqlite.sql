CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, value INTEGER, note TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
INSERT INTO t SELECT i, printf('name-%07d', (i * 7919) % 100003), (i * 104729) % 65537, printf('%0200d', i) FROM n;
CREATE INDEX by_name ON t(name);
CREATE INDEX by_value ON t(value);
SELECT count(*), sum(a.value) FROM t a JOIN t b ON a.value = b.id WHERE b.id < 2000;
SELECT max(length(note)) FROM t WHERE name > 'name-0050000';
UPDATE t SET value = value + 1 WHERE id % 5 = 0;
SELECT value % 100 AS v, count(*) FROM t GROUP BY v ORDER BY 2 DESC LIMIT 5;
