//! Sleeping and waking, and the end of a driver.

use super::*;

/// A wait may end this late: the machine that runs the tests is busy.
const LATE_MAX: Duration = Duration::from_millis(500);

fn a_wait_ends_on_time_and_not_before<D: Tested>() {
    let mut shard = Shard::<D>::new();
    let mut events = Vec::new();
    shard.driver.wait(Some(Time(0)), &mut events).unwrap();
    for milliseconds in [1, 5, 20] {
        let until = shard.driver.now().after(Duration::from_millis(milliseconds));
        shard.driver.wait(Some(until), &mut events).unwrap();
        let late = shard.driver.now().since(until);
        assert!(shard.driver.now() >= until && late < LATE_MAX, "{late:?} late");
        assert!(events.is_empty());
    }
}

fn a_wait_does_not_sleep_on_what_has_happened_already<D: Tested>() {
    let mut shard = Shard::<D>::new();
    let (mut client, conn) = shard.client();
    shard.turn(Duration::ZERO);
    client.write_all(b"x").unwrap();
    thread::sleep(Duration::from_millis(5));
    let mut events = Vec::new();
    shard.driver.wait(None, &mut events).unwrap();
    assert!(matches!(&events[..], [Event::Received { conn: from, .. }] if *from == conn));
}

fn no_ring_of_the_doorbell_is_lost<D: Tested>() {
    let mut shard = Shard::<D>::new();
    let (sent, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    const ROUNDS: u64 = 10_000;
    // Each thread waits for its ring to be seen before the next, so a lost one stops the test.
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let (bell, sent, seen) = (shard.driver.doorbell(), Arc::clone(&sent), Arc::clone(&seen));
            thread::spawn(move || {
                for _ in 0..ROUNDS {
                    let mine = sent.fetch_add(1, Ordering::SeqCst) + 1;
                    bell.ring();
                    while seen.load(Ordering::SeqCst) < mine {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut events = Vec::new();
    while seen.load(Ordering::SeqCst) < 3 * ROUNDS {
        let until = shard.driver.clock().after(PATIENCE);
        shard.driver.wait(Some(until), &mut events).unwrap();
        assert!(shard.driver.now() < until, "a ring was lost");
        if events.drain(..).any(|event| matches!(event, Event::Woken)) {
            seen.store(sent.load(Ordering::SeqCst), Ordering::SeqCst);
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

fn a_sleeping_shard_is_woken_and_an_awake_one_costs_no_system_call<D: Tested>() {
    let (send_bell, bells) = mpsc::channel();
    let shard = thread::spawn(move || {
        let mut shard = Shard::<D>::new();
        send_bell.send(shard.driver.doorbell()).unwrap();
        let mut events = Vec::new();
        while events.is_empty() {
            shard.driver.wait(None, &mut events).unwrap();
        }
        assert!(matches!(events[..], [Event::Woken]));
        shard.silence(Duration::from_millis(20));
    });
    let bell = bells.recv().unwrap();
    thread::sleep(Duration::from_millis(20));
    bell.ring();
    shard.join().unwrap();
    // The driver is gone; ringing does no harm.
    bell.ring();
}

fn a_dropped_driver_takes_its_connections_with_it<D: Tested>() {
    let mut shard = Shard::<D>::new();
    let (mut client, conn) = shard.client();
    let (_silent, stuck) = shard.client();
    shard.driver.send(conn, Bytes::from_static(b"x"));
    shard.driver.send(stuck, Bytes::from(vec![0; 64 << 20]));
    shard.turn(Duration::from_millis(5));
    let started = Instant::now();
    drop(shard);
    assert!(started.elapsed() < Duration::from_secs(1), "nothing had to be leaked");
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"x");
}

fn random_bytes_differ<D: Tested>() {
    let mut shard = Shard::<D>::new();
    let (mut one, mut two) = ([0; 32], [0; 32]);
    shard.driver.random(&mut one);
    shard.driver.random(&mut two);
    assert_ne!(one, two);
}

on_each_driver!(
    a_wait_ends_on_time_and_not_before,
    a_wait_does_not_sleep_on_what_has_happened_already,
    no_ring_of_the_doorbell_is_lost,
    a_sleeping_shard_is_woken_and_an_awake_one_costs_no_system_call,
    a_dropped_driver_takes_its_connections_with_it,
    random_bytes_differ,
);
