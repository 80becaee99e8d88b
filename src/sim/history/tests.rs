//! Histories made by hand: each anomaly is found and named, and what PostgreSQL allows is left alone.

use super::{Anomaly, History, Kind, Level, Promise, Read, Transaction};

const MAIN: usize = 0;
const EACH: Promise = Promise::EachNode { main: MAIN };

/// A committed transaction that overlaps with all others.
fn tx(id: i64, level: Level, reads: &[(i64, &[i64])], appends: &[i64]) -> Transaction {
    let read = |(statement, (list, entries)): (usize, &(i64, &[i64]))| {
        let entries = entries.to_vec();
        Read { list: *list, entries, place: Some(MAIN), statement }
    };
    Transaction {
        id,
        level,
        committed: true,
        began: 1,
        ended: Some(1000),
        session: None,
        reads: reads.iter().enumerate().map(read).collect(),
        appends: appends.to_vec(),
    }
}

fn rc(id: i64, reads: &[(i64, &[i64])], appends: &[i64]) -> Transaction {
    tx(id, Level::Statement, reads, appends)
}

fn rr(id: i64, reads: &[(i64, &[i64])], appends: &[i64]) -> Transaction {
    tx(id, Level::Snapshot, reads, appends)
}

fn ser(id: i64, reads: &[(i64, &[i64])], appends: &[i64]) -> Transaction {
    tx(id, Level::Serializable, reads, appends)
}

impl Transaction {
    fn at(mut self, node: usize) -> Transaction {
        self.reads.iter_mut().for_each(|r| r.place = Some(node));
        self
    }

    fn from(mut self, began: u64, ended: u64) -> Transaction {
        (self.began, self.ended) = (began, Some(ended));
        self
    }

    /// All its reads are one statement's.
    fn at_once(mut self) -> Transaction {
        self.reads.iter_mut().for_each(|r| r.statement = 0);
        self
    }

    fn of(mut self, client: usize) -> Transaction {
        self.session = Some((client, 1));
        self
    }

    fn failed(mut self) -> Transaction {
        self.committed = false;
        self
    }
}

fn history(lists: &[(i64, &[i64])], transactions: Vec<Transaction>) -> History {
    History { lists: lists.iter().map(|(k, list)| (*k, list.to_vec())).collect(), transactions }
}

fn kind(history: &History, promise: Promise) -> Option<Kind> {
    history.check(promise).err().map(|a: Anomaly| a.kind)
}

fn both(history: &History) -> Option<Kind> {
    let (one, each) = (kind(history, Promise::OneServer), kind(history, EACH));
    assert_eq!(one, each);
    one
}

#[test]
fn an_empty_history_and_serial_transactions_hold() {
    assert_eq!(both(&History::default()), None);
    let all = vec![rr(1, &[(1, &[])], &[1]).from(1, 2), rc(2, &[(1, &[1])], &[1, 2]).from(3, 4)];
    assert_eq!(both(&history(&[(1, &[1, 2]), (2, &[2])], all)), None);
}

#[test]
fn a_lost_append_and_one_of_a_failed_transaction_are_found() {
    assert_eq!(both(&history(&[(1, &[])], vec![rc(1, &[], &[1])])), Some(Kind::Lost));
    assert_eq!(both(&history(&[(1, &[1])], vec![rc(1, &[], &[1]).failed()])), Some(Kind::Lost));
}

#[test]
fn g0_two_writers_that_overtake_each_other_are_found() {
    let all = || vec![rc(1, &[], &[1, 2]), rc(2, &[], &[1, 2])];
    assert_eq!(both(&history(&[(1, &[1, 2]), (2, &[2, 1])], all())), Some(Kind::G0));
    assert_eq!(both(&history(&[(1, &[1, 2]), (2, &[1, 2])], all())), None);
    let between = vec![rc(1, &[], &[1, 1]), rc(2, &[], &[1])];
    assert_eq!(both(&history(&[(1, &[1, 2, 1])], between)), Some(Kind::G0));
}

#[test]
fn g1a_an_entry_that_was_rolled_back_and_is_read_is_found() {
    let all = vec![rc(1, &[], &[1]).failed(), rc(2, &[(1, &[1])], &[])];
    assert_eq!(both(&history(&[(1, &[])], all)), Some(Kind::G1a));
}

#[test]
fn g1b_a_part_of_a_transaction_that_is_read_is_found() {
    let all = vec![rc(1, &[], &[1, 1]), rc(2, &[(1, &[1])], &[])];
    assert_eq!(both(&history(&[(1, &[1, 1])], all)), Some(Kind::G1b));
}

#[test]
fn a_read_with_a_gap_is_no_version() {
    let all = vec![rc(1, &[], &[1]), rc(2, &[], &[1]), rc(3, &[(1, &[2])], &[])];
    assert_eq!(both(&history(&[(1, &[1, 2])], all)), Some(Kind::NoVersion));
}

#[test]
fn own_entries_are_no_anomaly_wherever_they_stand() {
    let all = vec![rc(1, &[], &[1]), rr(2, &[(1, &[1, 2]), (1, &[1])], &[1]), rc(3, &[], &[1])];
    assert_eq!(both(&history(&[(1, &[1, 2, 3])], all)), None);
}

#[test]
fn g1c_two_that_read_each_others_writes_are_found_at_both_levels() {
    for level in [Level::Statement, Level::Snapshot] {
        let all = vec![tx(1, level, &[(2, &[2])], &[1]), tx(2, level, &[(1, &[1])], &[2])];
        assert_eq!(both(&history(&[(1, &[1]), (2, &[2])], all)), Some(Kind::G1c));
    }
}

#[test]
fn a_read_that_cannot_be_repeated_is_legal_at_read_committed_and_read_skew_at_repeatable_read() {
    let with = |level| vec![rc(1, &[], &[1]), tx(2, level, &[(1, &[]), (1, &[1])], &[])];
    assert_eq!(both(&history(&[(1, &[1])], with(Level::Statement))), None);
    assert_eq!(both(&history(&[(1, &[1])], with(Level::Snapshot))), Some(Kind::GSingle));
}

#[test]
fn a_statement_never_sees_less_than_the_one_before_it() {
    let all = vec![rc(1, &[], &[1]), rc(2, &[(1, &[1]), (1, &[])], &[])];
    assert_eq!(both(&history(&[(1, &[1])], all)), Some(Kind::GSingle));
}

#[test]
fn g_single_half_of_a_transaction_in_one_snapshot_is_found() {
    let with = |level| vec![rc(1, &[], &[1, 2]), tx(2, level, &[(1, &[1]), (2, &[])], &[])];
    let lists: &[(i64, &[i64])] = &[(1, &[1]), (2, &[1])];
    assert_eq!(both(&history(lists, with(Level::Snapshot))), Some(Kind::GSingle));
    // At READ COMMITTED the other half was read first, before it was there; not the other way round.
    assert_eq!(both(&history(lists, with(Level::Statement))), Some(Kind::GSingle));
    let legal = vec![rc(1, &[], &[1, 2]), rc(2, &[(2, &[]), (1, &[1])], &[])];
    assert_eq!(both(&history(lists, legal)), None);
}

#[test]
fn a_snapshot_of_a_failed_transaction_is_held_to_the_rules() {
    let all = vec![rc(1, &[], &[1, 2]), rr(2, &[(1, &[1]), (2, &[])], &[1]).failed()];
    assert_eq!(both(&history(&[(1, &[1]), (2, &[1])], all)), Some(Kind::GSingle));
}

#[test]
fn a_lost_update_is_refused_at_repeatable_read_and_legal_at_read_committed() {
    let with = |level| vec![rc(1, &[], &[1]), tx(2, level, &[(1, &[])], &[1])];
    assert_eq!(both(&history(&[(1, &[1, 2])], with(Level::Snapshot))), Some(Kind::GSingle));
    assert_eq!(both(&history(&[(1, &[1, 2])], with(Level::Statement))), None);
}

#[test]
fn write_skew_is_legal_at_repeatable_read() {
    let all = vec![rr(1, &[(1, &[]), (2, &[])], &[1]), rr(2, &[(1, &[]), (2, &[])], &[2])];
    assert_eq!(both(&history(&[(1, &[1]), (2, &[2])], all)), None);
}

#[test]
fn write_skew_among_serializable_transactions_is_found_and_one_of_another_level_is_not_their_affair() {
    let with = |level| vec![ser(1, &[(1, &[]), (2, &[])], &[1]), tx(2, level, &[(1, &[]), (2, &[])], &[2])];
    let lists: &[(i64, &[i64])] = &[(1, &[1]), (2, &[2])];
    assert_eq!(both(&history(lists, with(Level::Serializable))), Some(Kind::G2));
    assert_eq!(both(&history(lists, with(Level::Snapshot))), None);
    let failed = vec![ser(1, &[(1, &[]), (2, &[])], &[1]), ser(2, &[(1, &[]), (2, &[])], &[2]).failed()];
    assert_eq!(both(&history(&[(1, &[1])], failed)), None);
}

#[test]
fn the_read_only_anomaly_of_snapshot_isolation_is_legal() {
    // Fekete, O'Neil, O'Neil 2004: the reader sees 2 and not 1, which did not see 2.
    let all = vec![rr(1, &[(1, &[]), (2, &[])], &[1]), rr(2, &[], &[2]), rr(3, &[(1, &[]), (2, &[2])], &[])];
    assert_eq!(both(&history(&[(1, &[1]), (2, &[2])], all)), None);
}

/// Two independent commits that two readers see in different orders.
fn fork(first: usize, second: usize) -> History {
    let all = vec![
        rr(1, &[], &[1]),
        rr(2, &[], &[2]),
        rr(3, &[(1, &[1]), (2, &[])], &[]).at(first),
        rr(4, &[(1, &[]), (2, &[2])], &[]).at(second),
    ];
    history(&[(1, &[1]), (2, &[2])], all)
}

#[test]
fn a_long_fork_is_found_on_one_server_and_legal_across_nodes_that_promise_nothing_together() {
    assert_eq!(kind(&fork(0, 1), Promise::OneServer), Some(Kind::GNonadjacent));
    assert_eq!(kind(&fork(1, 2), Promise::OneServer), Some(Kind::GNonadjacent));
    assert_eq!(kind(&fork(0, 1), EACH), None);
    assert_eq!(kind(&fork(1, 1), EACH), Some(Kind::GNonadjacent));
    assert_eq!(kind(&fork(0, 0), EACH), Some(Kind::GNonadjacent));
}

#[test]
fn a_replica_that_shows_a_commit_without_what_it_rests_on_is_found() {
    let rests = [rc(2, &[(1, &[1])], &[2]), rr(2, &[(1, &[1])], &[2])];
    for second in rests {
        let all = vec![rc(1, &[], &[1]), second, rr(3, &[(2, &[2]), (1, &[])], &[]).at(1)];
        assert_eq!(kind(&history(&[(1, &[1]), (2, &[2])], all), EACH), Some(Kind::GSingle));
    }
    // What main's own reads did not see says nothing about a replica.
    let all = vec![rr(1, &[], &[1]), rr(2, &[(1, &[])], &[2]), rr(3, &[(2, &[]), (1, &[1])], &[]).at(1)];
    assert_eq!(kind(&history(&[(1, &[1]), (2, &[2])], all), EACH), None);
}

#[test]
fn reads_whose_node_is_not_known_are_held_to_the_rules_one_by_one() {
    let mut all = vec![rc(1, &[], &[1]), rc(2, &[], &[1]), rc(3, &[(1, &[])], &[])];
    all[0] = all[0].clone().from(1, 10);
    all[2] = all[2].clone().from(20, 30);
    all[2].reads[0].place = None;
    assert_eq!(kind(&history(&[(1, &[1, 2])], all), EACH), Some(Kind::GSingle));
}

#[test]
fn what_began_after_an_end_was_known_sees_it_at_every_level_and_node() {
    for level in [Level::Statement, Level::Snapshot] {
        for node in [MAIN, 1] {
            let later = |began| tx(2, level, &[(1, &[])], &[]).at(node).from(began, 50);
            let with = |began| history(&[(1, &[1])], vec![rc(1, &[], &[1]).from(1, 10), later(began)]);
            assert_eq!(kind(&with(11), EACH), Some(Kind::GSingle));
            assert_eq!(kind(&with(10), EACH), None);
        }
    }
}

#[test]
fn a_later_transaction_never_sees_less_than_an_earlier_reader() {
    let with = |node| {
        let all = vec![
            rc(1, &[], &[1]),
            rc(2, &[(1, &[1])], &[]).at(1).from(2, 10),
            rc(3, &[(1, &[])], &[]).at(node).from(20, 30),
        ];
        history(&[(1, &[1])], all)
    };
    assert_eq!(kind(&with(1), EACH), Some(Kind::GSingle));
    assert_eq!(kind(&with(2), Promise::OneServer), Some(Kind::GSingle));
    assert_eq!(kind(&with(2), EACH), None);
}

#[test]
fn an_end_that_nobody_was_told_orders_nothing() {
    let mut unknown = rc(1, &[], &[1]).from(1, 10);
    unknown.ended = None;
    let all = vec![unknown, rc(2, &[(1, &[])], &[]).from(20, 30)];
    assert_eq!(both(&history(&[(1, &[1])], all)), None);
}

#[test]
fn what_one_statement_reads_is_one_snapshot_at_every_level() {
    let reads: &[(i64, &[i64])] = &[(2, &[]), (1, &[1])];
    let with = |reader: Transaction| history(&[(1, &[1]), (2, &[1])], vec![rc(1, &[], &[1, 2]), reader]);
    assert_eq!(both(&with(rc(2, reads, &[]))), None);
    assert_eq!(both(&with(rc(2, reads, &[]).at_once())), Some(Kind::GSingle));
}

#[test]
fn a_long_fork_of_two_statements_is_found_on_one_server() {
    let all = vec![
        rr(1, &[], &[1]),
        rr(2, &[], &[2]),
        rc(3, &[(1, &[1]), (2, &[])], &[]).at_once().at(1),
        rc(4, &[(1, &[]), (2, &[2])], &[]).at_once().at(2),
    ];
    let fork = history(&[(1, &[1]), (2, &[2])], all);
    assert_eq!(kind(&fork, Promise::OneServer), Some(Kind::GNonadjacent));
    assert_eq!(kind(&fork, EACH), None);
}

#[test]
fn what_was_sent_at_once_on_one_connection_happens_in_order_on_one_server() {
    let with = |later: Transaction| {
        let all = vec![rc(1, &[], &[1]).of(7).from(1, 10), later.from(1, 10)];
        history(&[(1, &[1])], all)
    };
    let later = || rc(2, &[(1, &[])], &[]);
    assert_eq!(kind(&with(later().of(7)), Promise::OneServer), Some(Kind::GSingle));
    assert_eq!(kind(&with(later().of(8)), Promise::OneServer), None);
    assert_eq!(kind(&with(later().of(7)), EACH), None);
}

#[test]
fn a_cycle_of_appends_and_time_is_g1c() {
    let all = vec![rc(1, &[], &[1]).from(20, 30), rc(2, &[], &[1]).from(1, 10)];
    assert_eq!(both(&history(&[(1, &[1, 2])], all)), Some(Kind::G1c));
}
