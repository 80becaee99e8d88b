//! Both ends of the house together: clients, played by [`NodeAuth`] (it is libpq's side of the protocol), against
//! [`ClientAuth`]; and random bytes against everything.

use proptest::prelude::*;

use super::*;

const USER: &str = "alice";
const RIGHT: &str = "open sesame";
const MAX_ITERATIONS: u32 = 4096;

fn verifier() -> ScramVerifier {
    ScramVerifier::from_password(RIGHT, b"sixteen bytes...", 10)
}

fn role(secret: Secret) -> Option<Role> {
    Some(Role { secret, can_login: true, valid_until_passed: false })
}

fn plain(password: &str) -> Credentials {
    Credentials::Plain(password.into())
}

/// One login seen from outside.
struct Login {
    /// Complete messages of the server, one by one.
    from_server: Vec<Vec<u8>>,
    outcome: Result<Credentials, AuthError>,
}

/// Lets a client with these credentials log in.
fn log_in(method: Method, role: Option<Role>, client: Credentials, random: u8) -> Login {
    let (mut server, first) = ClientAuth::with_mock_secret(method, USER, role, [random; 40], b"mock");
    let mut client = NodeAuth::new(USER, client, [random ^ 0xff; 18], MAX_ITERATIONS);
    let mut from_server = vec![first];
    loop {
        let request = from_server.last().expect("never empty");
        let NodeStep::Reply(reply) = client.on_request(body(b'R', request)).unwrap() else { panic!("no reply") };
        match server.on_message(body(b'p', &reply)) {
            Step::Send(bytes) => from_server.push(bytes),
            Step::Fail(error) => return Login { from_server, outcome: Err(error) },
            Step::Done { send, credentials } => {
                if !send.is_empty() {
                    assert_eq!(client.on_request(body(b'R', &send)), Ok(NodeStep::Wait));
                }
                assert_eq!(client.on_request(&[0; 4]), Ok(NodeStep::Ok));
                return Login { from_server, outcome: Ok(credentials) };
            }
        }
    }
}

/// The body of a message that must be complete and of this type.
fn body(kind: u8, message: &[u8]) -> &[u8] {
    assert_eq!(message[0], kind);
    assert_eq!(u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize, message.len() - 1);
    &message[5..]
}

fn outcome(method: Method, role: Option<Role>, client: Credentials) -> Result<Credentials, AuthError> {
    log_in(method, role, client, 1).outcome
}

fn failed(detail: &str) -> Result<Credentials, AuthError> {
    Err(AuthError::PasswordFailed { user: USER.into(), detail: detail.into() })
}

fn every_secret() -> [Secret; 3] {
    [Secret::Plain(RIGHT.into()), Secret::Md5(md5_hash(RIGHT, USER)), Secret::Scram(verifier())]
}

const ASKING: [Method; 3] = [Method::Password, Method::Md5, Method::ScramSha256];

#[test]
fn the_right_password_passes_and_a_wrong_one_fails_with_every_method_and_secret() {
    for method in ASKING {
        for secret in every_secret() {
            let usable = !(method == Method::ScramSha256 && matches!(secret, Secret::Md5(_)));
            let right = outcome(method, role(secret.clone()), plain(RIGHT));
            assert_eq!(right.is_ok(), usable, "{method:?} {secret:?} {right:?}");
            let wrong = outcome(method, role(secret.clone()), plain("wrong")).unwrap_err();
            assert_eq!(wrong.sqlstate(), "28P01");
            assert_eq!(wrong.message(), "password authentication failed for user \"alice\"");
            assert!(!wrong.to_string().contains(wrong.log_detail().unwrap()));
        }
    }
}

#[test]
fn a_login_leaves_the_strongest_credentials_it_can() {
    let [with_plain, with_md5, with_scram] = every_secret().map(role);
    assert_eq!(outcome(Method::ScramSha256, with_plain.clone(), plain(RIGHT)), Ok(plain(RIGHT)));
    assert_eq!(outcome(Method::Md5, with_plain, plain(RIGHT)), Ok(plain(RIGHT)));
    let hash = Credentials::Md5(md5_hash(RIGHT, USER).into());
    assert_eq!(outcome(Method::Md5, with_md5.clone(), hash.clone()), Ok(hash));
    assert_eq!(outcome(Method::Password, with_md5, plain(RIGHT)), Ok(plain(RIGHT)));
    assert_eq!(outcome(Method::Password, with_scram, plain(RIGHT)), Ok(plain(RIGHT)));
}

#[test]
fn scram_keys_learned_from_a_client_log_in_to_a_node_with_the_same_verifier() {
    for method in [Method::ScramSha256, Method::Md5] {
        let keys = log_in(method, role(Secret::Scram(verifier())), plain(RIGHT), 1).outcome.unwrap();
        assert!(matches!(keys, Credentials::Scram { .. }));
        let at_node = log_in(Method::ScramSha256, role(Secret::Scram(verifier())), keys.clone(), 2);
        assert_eq!(at_node.outcome, Ok(keys.clone()));
        let other = ScramVerifier::from_password(RIGHT, b"another salt", 10);
        assert!(log_in(Method::ScramSha256, role(Secret::Scram(other)), keys, 3).outcome.is_err());
    }
}

#[test]
fn trust_asks_nothing_but_wants_a_role_that_may_log_in() {
    let trusted = |role| {
        let (mut auth, first) = ClientAuth::new(Method::Trust, USER, role, [0; 40]);
        assert!(first.is_empty());
        let step = auth.without_exchange().unwrap();
        assert!(auth.without_exchange().is_none());
        step
    };
    let expired = Role { secret: Secret::None, can_login: true, valid_until_passed: true };
    assert!(
        matches!(trusted(Some(expired.clone())), Step::Done { send, credentials: Credentials::None } if send.is_empty())
    );
    assert!(
        matches!(trusted(role(Secret::Plain(RIGHT.into()))), Step::Done { credentials, .. } if credentials == plain(RIGHT))
    );
    let Step::Fail(error) = trusted(None) else { panic!() };
    assert_eq!((error.sqlstate(), error.message()), ("28000", "role \"alice\" does not exist".into()));
    let Step::Fail(error) = trusted(Some(Role { can_login: false, ..expired })) else { panic!() };
    assert_eq!((error.sqlstate(), error.message()), ("28000", "role \"alice\" is not permitted to log in".into()));
    let (mut asked, _) = ClientAuth::new(Method::Password, USER, None, [0; 40]);
    assert!(asked.without_exchange().is_none());
}

#[test]
fn nologin_shows_only_to_who_knows_the_password() {
    for method in ASKING {
        let role = Role { secret: Secret::Scram(verifier()), can_login: false, valid_until_passed: false };
        assert_eq!(outcome(method, Some(role.clone()), plain("wrong")).unwrap_err().sqlstate(), "28P01");
        let error = outcome(method, Some(role), plain(RIGHT)).unwrap_err();
        assert_eq!(error, AuthError::LoginNotPermitted { user: USER.into() });
    }
}

#[test]
fn the_log_knows_why_no_password_would_do() {
    for method in ASKING {
        assert_eq!(outcome(method, None, plain(RIGHT)), failed("Role \"alice\" does not exist."));
        assert_eq!(
            outcome(method, role(Secret::None), plain(RIGHT)),
            failed("User \"alice\" has no password assigned.")
        );
        for secret in every_secret() {
            let expired = Role { secret, can_login: true, valid_until_passed: true };
            assert_eq!(outcome(method, Some(expired), plain(RIGHT)), failed("User \"alice\" has an expired password."));
        }
    }
    let with_md5 = role(Secret::Md5(md5_hash(RIGHT, USER)));
    let expected = failed("User \"alice\" does not have a valid SCRAM secret.");
    assert_eq!(outcome(Method::ScramSha256, with_md5, plain(RIGHT)), expected);
}

#[test]
fn an_unknown_user_looks_like_a_known_one_on_the_wire() {
    let shape = |role: Option<Role>| {
        let stored = ScramVerifier::from_password(RIGHT, b"sixteen bytes...", DEFAULT_ITERATIONS);
        let known = log_in(Method::ScramSha256, crate::auth::tests::role(Secret::Scram(stored)), plain("wrong"), 1);
        let login = log_in(Method::ScramSha256, role, plain("wrong"), 1);
        let lengths = |login: &Login| login.from_server.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&known), lengths(&login));
        assert_eq!(known.from_server[0], login.from_server[0]);
        let (known, login) = (known.outcome.unwrap_err(), login.outcome.unwrap_err());
        assert_eq!((known.sqlstate(), known.message()), (login.sqlstate(), login.message()));
    };
    shape(None);
    shape(role(Secret::None));
    shape(role(Secret::Plain(RIGHT.into())));
    shape(role(Secret::Md5(md5_hash(RIGHT, USER))));
}

#[test]
fn a_user_without_a_verifier_is_shown_the_same_salt_each_time() {
    for role in [None, role(Secret::None), role(Secret::Plain(RIGHT.into()))] {
        let salt = |random| {
            let login = log_in(Method::ScramSha256, role.clone(), plain("wrong"), random);
            let challenge = String::from_utf8(login.from_server[1][9..].to_vec()).unwrap();
            challenge.split(",s=").nth(1).unwrap().to_owned()
        };
        assert_eq!(salt(1), salt(2));
    }
}

#[test]
fn a_first_message_may_come_late_as_rfc_4422_allows() {
    let (mut server, _) = ClientAuth::new(Method::ScramSha256, USER, role(Secret::Scram(verifier())), [7; 40]);
    let Step::Send(empty) = server.on_message(b"SCRAM-SHA-256\0\xff\xff\xff\xff") else { panic!() };
    assert_eq!(empty, b"R\0\0\0\x08\0\0\0\x0b");
    let mut client = ScramClient::with_password("", RIGHT, &[8; 18], 10);
    let Step::Send(challenge) = server.on_message(&client.first()) else { panic!() };
    let answer = client.on_server_first(&challenge[9..]).unwrap();
    assert!(matches!(server.on_message(&answer), Step::Done { .. }));
}

#[test]
fn malformed_messages_are_protocol_violations() {
    let sqlstate = |method, body: &[u8]| {
        let (mut server, _) = ClientAuth::new(method, USER, role(Secret::Scram(verifier())), [7; 40]);
        let Step::Fail(error) = server.on_message(body) else { panic!("accepted {body:?}") };
        assert!(matches!(server.on_message(body), Step::Fail(AuthError::Protocol { .. })), "over after an error");
        error.sqlstate()
    };
    let long_sasl = [b"SCRAM-SHA-256\0\0\0\x04\0".as_slice(), &[b'n'; 1024]].concat();
    let sasl: [&[u8]; 10] = [
        b"",
        b"\0",
        b"SCRAM-SHA-256",
        b"SCRAM-SHA-256\0",
        b"SCRAM-SHA-256\0\0\0\0",
        b"SCRAM-SHA-256\0\0\0\0\0",
        b"SCRAM-SHA-256\0\xff\xff\xff\xfe",
        b"SCRAM-SHA-256\0\0\0\0\x05n,,",
        b"SCRAM-SHA-256-PLUS\0\0\0\0\x03n,,",
        &long_sasl,
    ];
    for message in sasl {
        assert_eq!(sqlstate(Method::ScramSha256, message), "08P01", "{message:?}");
    }
    let long_password = [vec![b'x'; MAX_PASSWORD_MESSAGE_LEN], vec![0]].concat();
    for message in [b"".as_slice(), b"pw", b"p\0w\0", b"pw\0\0", &long_password] {
        assert_eq!(sqlstate(Method::Password, message), "08P01");
    }
    assert_eq!(sqlstate(Method::Password, b"\0"), "28P01");
    let identity = b"SCRAM-SHA-256\0\0\0\0\x0dn,a=x,n=,r=ab";
    assert_eq!(sqlstate(Method::ScramSha256, identity), "0A000");
}

#[test]
fn a_password_that_is_right_but_not_utf8_is_refused_with_the_reason() {
    let raw = Secret::Md5(super::md5::md5_hash_bytes(b"latin\xe9", USER));
    let (mut server, _) = ClientAuth::new(Method::Password, USER, role(raw), [7; 40]);
    let Step::Fail(error) = server.on_message(b"latin\xe9\0") else { panic!() };
    assert!(error.log_detail().unwrap().contains("not UTF-8"), "{error:?}");
}

fn node(credentials: Credentials) -> NodeAuth {
    NodeAuth::new(USER, credentials, [9; 18], MAX_ITERATIONS)
}

fn request(code: i32, payload: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), payload].concat()
}

#[test]
fn a_node_that_trusts_the_proxy_needs_nothing() {
    assert_eq!(node(Credentials::None).on_request(&request(0, b"")), Ok(NodeStep::Ok));
}

#[test]
fn a_cleartext_node_is_given_the_password_and_an_md5_node_the_response() {
    let mut auth = node(plain("pw"));
    assert_eq!(auth.on_request(&request(3, b"")), Ok(NodeStep::Reply(b"p\0\0\0\x07pw\0".to_vec())));
    assert!(auth.on_request(&request(3, b"")).is_err(), "asked twice");
    let answer = md5_response(&md5_hash("pw", USER), [1, 2, 3, 4]);
    for credentials in [plain("pw"), Credentials::Md5(md5_hash("pw", USER).into())] {
        let NodeStep::Reply(reply) = node(credentials).on_request(&request(5, &[1, 2, 3, 4])).unwrap() else {
            panic!()
        };
        assert_eq!(body(b'p', &reply), [answer.as_bytes(), b"\0"].concat());
    }
}

#[test]
fn scram_is_chosen_where_scram_plus_is_offered_too() {
    let NodeStep::Reply(reply) =
        node(plain("pw")).on_request(&request(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0")).unwrap()
    else {
        panic!()
    };
    assert!(body(b'p', &reply).starts_with(b"SCRAM-SHA-256\0\0\0\0\x20n,,n=,r="));
    let error = node(plain("pw")).on_request(&request(10, b"SCRAM-SHA-256-PLUS\0OAUTHBEARER\0\0")).unwrap_err();
    assert!(error.to_string().contains("SCRAM-SHA-256-PLUS, OAUTHBEARER"), "{error}");
}

#[test]
fn credentials_that_do_not_fit_the_nodes_method_say_what_to_configure() {
    let keys = Credentials::Scram { client_key: [1; 32], server_key: [2; 32] };
    let hash = Credentials::Md5(md5_hash("pw", USER).into());
    let scram: &[u8] = b"SCRAM-SHA-256\0\0";
    let cases: [(&Credentials, i32, &[u8]); 7] = [
        (&keys, 5, &[0; 4]),
        (&keys, 3, b""),
        (&hash, 10, scram),
        (&hash, 3, b""),
        (&Credentials::None, 10, scram),
        (&Credentials::None, 5, &[0; 4]),
        (&Credentials::None, 3, b""),
    ];
    for (credentials, code, payload) in cases {
        let error = node(credentials.clone()).on_request(&request(code, payload)).unwrap_err();
        assert_eq!(error.sqlstate(), "28000");
        assert!(error.to_string().contains("alice") && error.to_string().contains("pool_passwd"), "{error}");
    }
}

#[test]
fn methods_that_are_not_supported_are_named() {
    for (code, name) in [(2, "Kerberos V5"), (7, "GSSAPI"), (9, "SSPI"), (99, "99")] {
        let error = node(plain("pw")).on_request(&request(code, b"xyz")).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_node_must_prove_itself_before_it_may_say_ok() {
    let mut auth = node(plain("pw"));
    auth.on_request(&request(10, b"SCRAM-SHA-256\0\0")).unwrap();
    assert!(matches!(auth.on_request(&request(0, b"")), Err(NodeAuthError::Protocol(_))));
    let mut auth = node(plain("pw"));
    auth.on_request(&request(10, b"SCRAM-SHA-256\0\0")).unwrap();
    let challenge = b"r=CQkJCQkJCQkJCQkJCQkJCQkJCQkJ".to_vec(); // our nonce alone is not enough
    assert!(auth.on_request(&request(11, &challenge)).is_err());
}

#[test]
fn a_nodes_iteration_count_is_capped() {
    let greedy = ScramVerifier { iterations: MAX_ITERATIONS + 1, ..verifier() };
    let mut server = ScramServer::new(greedy, &[1; 18]);
    let mut auth = node(plain(RIGHT));
    let NodeStep::Reply(first) = auth.on_request(&request(10, b"SCRAM-SHA-256\0\0")).unwrap() else { panic!() };
    let payload = &body(b'p', &first)[b"SCRAM-SHA-256\0".len() + 4..];
    let ScramServerStep::Continue(challenge) = server.on_message(payload).unwrap() else { panic!() };
    let error = auth.on_request(&request(11, &challenge)).unwrap_err();
    let expected = ScramClientError::TooManyIterations { iterations: MAX_ITERATIONS + 1, max: MAX_ITERATIONS };
    assert_eq!(error, NodeAuthError::Scram(expected));
}

/// Text that looks like SCRAM more often than chance would have it.
fn scram_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just("n,,".to_owned()),
        Just("c=biws,".to_owned()),
        Just("SCRAM-SHA-256\0".to_owned()),
        "[a-z]=[ -~]{0,40},?",
        "[rspiv]=[A-Za-z0-9+/]{0,12}={0,2},?",
        "[\\x00-\\x7f]{0,4}",
    ];
    let text = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat().into_bytes());
    prop_oneof![text, prop::collection::vec(any::<u8>(), 0..200)]
}

proptest! {
    #[test]
    fn no_bytes_of_a_client_make_the_exchange_panic(
        messages in prop::collection::vec(scram_like(), 1..4), which in 0..3usize, initial in any::<bool>(), seed: u8,
    ) {
        let [.., secret] = every_secret();
        let (mut server, _) = ClientAuth::new(ASKING[which], USER, role(secret), [seed; 40]);
        for (index, message) in messages.iter().enumerate() {
            let length = (message.len() as u32).to_be_bytes();
            let framed = [b"SCRAM-SHA-256\0", &length[..], message].concat();
            let step = server.on_message(if index == 0 && initial { &framed } else { message });
            let passed = matches!(step, Step::Done { .. });
            prop_assert!(!passed, "let in with {:?}", message);
        }
    }

    #[test]
    fn no_bytes_of_a_node_make_the_exchange_panic(
        messages in prop::collection::vec((0..14i32, scram_like()), 1..5), with_keys: bool,
    ) {
        let keys = Credentials::Scram { client_key: [1; 32], server_key: [2; 32] };
        let mut auth = NodeAuth::new(USER, if with_keys { keys } else { plain("pw") }, [0; 18], 8);
        for (code, payload) in &messages {
            let _ = auth.on_request(&request(*code, payload));
        }
        let _ = auth.on_request(&messages[0].1);
    }

    #[test]
    fn no_challenge_makes_a_scram_client_panic(tail in scram_like(), signature in scram_like()) {
        let mut client = ScramClient::with_password("", "pw", &[0; 18], 8);
        let nonce = [b"r=AAAAAAAAAAAAAAAAAAAAAAAA".as_slice(), &tail].concat();
        let _ = client.on_server_first(&nonce);
        prop_assert!(client.on_server_final(&signature).is_err());
    }

    #[test]
    fn no_text_makes_a_reader_of_secrets_panic(text in "(SCRAM-SHA-256\\$|md5|)[ -~\\n\\\\:é]{0,80}") {
        let _ = ScramVerifier::parse(&text);
        let _ = Secret::parse_shadow(&text);
        let _ = PoolPasswd::parse(&text);
    }

    #[test]
    fn any_password_round_trips_through_every_method(password in "\\PC{1,20}") {
        let verifier = ScramVerifier::from_password(&password, b"salt", 2);
        for (method, secret) in [
            (Method::ScramSha256, Secret::Scram(verifier.clone())),
            (Method::Password, Secret::Scram(verifier)),
            (Method::Md5, Secret::Md5(md5_hash(&password, USER))),
        ] {
            prop_assert!(outcome(method, role(secret), plain(&password)).is_ok());
        }
    }
}
