//! Bytes: order, back-pressure, buffers, and what leaves with one system call.

use super::*;

fn bytes_come_back_through_two_connections<D: Tested>() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = Address::Tcp(server.local_addr().unwrap());
    let echo = thread::spawn(move || {
        let (mut socket, _) = server.accept().unwrap();
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = socket.read(&mut buffer) {
            socket.write_all(&buffer[..n]).unwrap();
        }
    });
    let mut shard = Shard::<D>::new();
    let (mut client, front) = shard.client();
    let back = shard.driver.connect(&to);
    assert!(matches!(shard.next(), Event::Connected { conn } if conn == back));
    for round in 0..50u8 {
        client.write_all(&[round; 100]).unwrap();
        let mut relayed = 0;
        while relayed < 200 {
            let Event::Received { conn, bytes } = shard.next() else { panic!() };
            relayed += bytes.len();
            shard.driver.send(if conn == front { back } else { front }, bytes);
        }
        shard.turn(Duration::ZERO);
        let mut answer = [0; 100];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [round; 100]);
    }
    drop(client);
    let gone = loop {
        if let Event::Closed { conn, error } = shard.next() {
            assert!(error.is_none());
            break conn;
        }
    };
    assert_eq!(gone, front);
    shard.driver.close(back);
    shard.settle_to(0);
    echo.join().unwrap();
}

fn a_hundred_megabytes_arrive_in_order_with_bounded_memory<D: Tested>() {
    const TOTAL: usize = 100 << 20;
    let mut shard = Shard::<D>::with(DriverOptions { receive_buffers: 16, ..DriverOptions::default() });
    let (client, source) = shard.client();
    let (sink_client, sink) = shard.client();
    let writer = thread::spawn(move || {
        let (mut client, mut seed, mut at) = (client, 7, 0);
        while at < TOTAL {
            let length = (random(&mut seed) as usize % 100_000 + 1).min(TOTAL - at);
            let chunk: Vec<u8> = (at..at + length).map(pattern).collect();
            client.write_all(&chunk).unwrap();
            at += length;
        }
        client
    });
    let reader = thread::spawn(move || {
        let (mut client, mut seed, mut at) = (sink_client, 11, 0);
        let mut buffer = vec![0; 200_000];
        while at < TOTAL {
            let limit = random(&mut seed) as usize % buffer.len() + 1;
            let n = client.read(&mut buffer[..limit]).unwrap();
            assert!(n > 0);
            assert!((0..n).all(|i| buffer[i] == pattern(at + i)), "wrong bytes after {at}");
            at += n;
            if random(&mut seed) % 64 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let (mut relayed, mut queued_max, mut pauses, mut paused, mut seed) = (0, 0, 0, false, 3);
    while relayed < TOTAL {
        match shard.next() {
            Event::Received { conn, mut bytes } => {
                assert_eq!(conn, source);
                relayed += bytes.len();
                // Cut at random, so that sends of one chunk and of many, large and small, all occur.
                while !bytes.is_empty() {
                    let cut = (random(&mut seed) as usize % 20_000 + 1).min(bytes.len());
                    shard.driver.send(sink, bytes.split_to(cut));
                }
                let queued = shard.driver.queued(sink);
                queued_max = queued_max.max(queued);
                if queued > D::HIGH_WATER && !paused {
                    shard.driver.pause(source);
                    (paused, pauses) = (true, pauses + 1);
                }
            }
            Event::Drained { conn } => {
                assert_eq!(conn, sink);
                assert!(shard.driver.queued(sink) < D::LOW_WATER);
                shard.driver.resume(source);
                paused = false;
            }
            other => panic!("{other:?}"),
        }
    }
    shard.driver.close(sink);
    while !reader.is_finished() {
        shard.turn(Duration::from_millis(10));
    }
    reader.join().unwrap();
    drop(writer.join().unwrap());
    assert!(pauses > 0, "the reader is slow enough to make the source pause");
    // What one turn can receive (16 buffers), and one turn more, may come after the pause.
    assert!(queued_max < D::HIGH_WATER + 3 * 16 * 65_536, "{queued_max} bytes were queued");
    if let Some(buffers) = shard.driver.buffers() {
        assert!((buffers as usize) < 2 * TOTAL / 65_536, "{buffers} buffers for {TOTAL} bytes");
    }
}

fn a_buffer_that_a_session_keeps_is_not_written_again<D: Tested>() {
    let mut shard =
        Shard::<D>::with(DriverOptions { receive_buffers: 2, receive_buffer_size: 8192, ..DriverOptions::default() });
    let (mut client, conn) = shard.client();
    let mut kept = Vec::new();
    for round in 0..200u8 {
        client.write_all(&[round; 1000]).unwrap();
        let mut length = 0;
        while length < 1000 {
            let bytes = shard.received(conn);
            length += bytes.len();
            kept.push((round, bytes));
        }
    }
    assert!(kept.iter().all(|(round, bytes)| bytes.iter().all(|byte| byte == round)));
}

fn more_bytes_than_all_buffers_hold_lose_nothing<D: Tested>() {
    let mut shard =
        Shard::<D>::with(DriverOptions { receive_buffers: 1, receive_buffer_size: 4096, ..DriverOptions::default() });
    let clients: Vec<_> = (0..8).map(|_| shard.client()).collect();
    let mut totals: HashMap<ConnId, usize> = HashMap::new();
    for (client, conn) in &clients {
        let mut client = client;
        client.write_all(&[7; 50_000]).unwrap();
        totals.insert(*conn, 0);
    }
    while totals.values().any(|total| *total < 50_000) {
        let Event::Received { conn, bytes } = shard.next() else { panic!() };
        *totals.get_mut(&conn).unwrap() += bytes.len();
    }
    assert!(totals.values().all(|total| *total == 50_000));
}

fn last_words_reach_a_peer_that_is_still_talking<D: Tested>() {
    let mut shard = Shard::<D>::new();
    let (mut client, conn) = shard.client();
    client.write_all(&[9; 100_000]).unwrap();
    shard.driver.send(conn, Bytes::from_static(b"FATAL"));
    shard.driver.close(conn);
    for _ in 0..5 {
        shard.turn(Duration::from_millis(5));
    }
    client.write_all(&[9; 100_000]).unwrap();
    shard.turn(Duration::from_millis(5));
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    assert_eq!(text, "FATAL");
    drop(client);
    shard.settle_to(0);
}

fn what_a_server_says_before_it_goes_is_received_although_sending_fails<D: Tested>() {
    let mut shard = Shard::<D>::new();
    let (mut client, conn) = shard.client();
    shard.driver.pause(conn);
    shard.turn(Duration::ZERO);
    shard.turn(Duration::from_millis(5));
    client.write_all(b"terminating connection").unwrap();
    drop(client);
    thread::sleep(Duration::from_millis(5));
    // The first send is answered by a reset, the second one fails.
    shard.driver.resume(conn);
    let mut heard = Vec::new();
    let mut closed = 0;
    while closed == 0 {
        shard.driver.send(conn, Bytes::from_static(b"select 1"));
        match shard.next() {
            Event::Received { bytes, .. } => heard.extend_from_slice(&bytes),
            Event::Closed { .. } => closed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(heard, b"terminating connection");
    shard.settle_to(0);
}

fn a_paused_connection_reports_nothing_until_it_is_resumed<D: Tested>() {
    let mut shard = Shard::<D>::new();
    let (mut client, conn) = shard.client();
    shard.driver.pause(conn);
    shard.turn(Duration::ZERO);
    client.write_all(b"later").unwrap();
    shard.silence(Duration::from_millis(20));
    for _ in 0..100 {
        shard.driver.resume(conn);
        shard.driver.pause(conn);
        shard.turn(Duration::ZERO);
    }
    shard.driver.resume(conn);
    shard.driver.pause(conn);
    shard.driver.resume(conn);
    assert_eq!(&shard.received(conn)[..], b"later");
    client.write_all(b"again").unwrap();
    assert_eq!(&shard.received(conn)[..], b"again");
}

fn a_turn_with_more_operations_than_the_queue_holds_loses_none<D: Tested>() {
    let mut shard = Shard::<D>::with(DriverOptions { connections_max: 4000, ..DriverOptions::default() });
    shard.turn(Duration::ZERO);
    let to = Address::Tcp(shard.address);
    let conns: Vec<_> = (0..1500).map(|_| shard.driver.connect(&to)).collect();
    let (mut connected, mut accepted) = (0, 0);
    while (connected, accepted) != (conns.len(), conns.len()) {
        match shard.next() {
            Event::Connected { .. } => connected += 1,
            Event::Accepted { .. } => accepted += 1,
            other => panic!("{other:?}"),
        }
    }
    conns.iter().for_each(|conn| shard.driver.send(*conn, Bytes::from_static(b"x")));
    let mut received = 0;
    while received < conns.len() {
        let Event::Received { bytes, .. } = shard.next() else { panic!() };
        received += bytes.len();
    }
}

on_each_driver!(
    bytes_come_back_through_two_connections,
    a_hundred_megabytes_arrive_in_order_with_bounded_memory,
    a_buffer_that_a_session_keeps_is_not_written_again,
    more_bytes_than_all_buffers_hold_lose_nothing,
    last_words_reach_a_peer_that_is_still_talking,
    what_a_server_says_before_it_goes_is_received_although_sending_fails,
    a_paused_connection_reports_nothing_until_it_is_resumed,
    a_turn_with_more_operations_than_the_queue_holds_loses_none,
);
