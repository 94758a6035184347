//! What others got wrong on the wire, and the tests here that show it cannot be done to this gateway: the attack fails and
//! the nearest honest request passes. [`ROWS`] is the list; a test reads that each of its names is a test there is. The
//! tests below fill the rows that nobody else has.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use tokio::task::JoinSet;

use super::backend::Backend;
use super::harness::{Gate, Setup};
use super::process::{Home, Plan};

/// A row: what others got wrong, and what shows that it is not so here.
struct Row {
    number: usize,
    threat: &'static str,
    shown: Shown,
}

enum Shown {
    /// By these tests: `file::name`, from the top of the repository.
    By(&'static [&'static str]),
    /// It cannot be done to a gateway that does not do this at all.
    Absent(&'static str),
}

use Shown::{Absent, By};

const fn row(number: usize, threat: &'static str, shown: Shown) -> Row {
    Row { number, threat, shown }
}

const ROWS: &[Row] = &[
    row(
        1,
        "an identity header of the client's in any spelling",
        By(&[
            "tests/it/access.rs::a_client_cannot_send_identity_headers_in_any_spelling",
            "tests/it/access.rs::a_header_name_with_an_underscore_is_refused_unless_the_site_drops_them",
            "tests/it/smuggling.rs::lines_have_one_end_and_are_never_folded",
            "tests/it/http2.rs::fields_of_a_connection_and_names_that_are_none_are_no_request",
            "src/upstream/hygiene.rs::no_disguise_and_no_connection_header_touches_an_identity",
        ]),
    ),
    row(
        2,
        "`Connection` that deletes the gateway's headers",
        By(&[
            "tests/it/access.rs::a_client_cannot_send_identity_headers_in_any_spelling",
            "src/upstream/hygiene.rs::connection_deletes_what_the_client_sent_and_nothing_of_ours",
        ]),
    ),
    row(
        3,
        "identity headers on public routes",
        By(&["tests/it/access.rs::public_routes_pass_without_a_credential_and_strip_identity_too"]),
    ),
    row(
        4,
        "a path that is decided on in one reading and forwarded in another",
        By(&[
            "tests/it/paths.rs::a_path_with_two_readings_is_refused_over_either_protocol_and_never_forwarded",
            "tests/it/paths.rs::the_nearest_honest_paths_pass_as_they_were_decided_on",
            "tests/it/paths.rs::nothing_at_or_below_a_native_prefix_is_forwarded_in_any_spelling_by_any_method",
            "src/rules/path.rs::what_passes_means_the_same_to_every_decoder",
        ]),
    ),
    row(
        5,
        "a public rule that matches on the query",
        By(&["tests/it/paths.rs::the_nearest_honest_paths_pass_as_they_were_decided_on"]),
    ),
    row(
        6,
        "`X-Forwarded-*`, `X-Original-URL` and their like from a stranger",
        By(&[
            "tests/it/threats.rs::what_a_stranger_says_of_its_way_here_changes_neither_the_decision_nor_the_request",
            "src/upstream/hygiene.rs::what_a_client_says_of_its_way_here_changes_nothing",
            "src/rules/forwarded.rs::scheme_and_host_are_those_of_the_outermost_trusted_proxy",
            "src/rules/forwarded.rs::a_stranger_says_nothing_that_counts",
        ]),
    ),
    row(
        7,
        "a rule that reads one of several fields of a name",
        By(&[
            "tests/it/smuggling.rs::one_request_is_for_one_host",
            "tests/it/smuggling.rs::two_framings_or_an_odd_one_are_no_request",
            "src/upstream/hygiene.rs::an_upgrade_is_to_one_protocol_and_named_by_connection",
            "src/credential/presented.rs::what_is_not_one_scheme_and_one_credential_is_refused",
        ]),
    ),
    row(
        8,
        "a token that chooses how it is verified",
        By(&[
            "tests/it/tokens.rs::tokens_with_another_algorithm_or_header_are_refused",
            "src/credential/tests/attacks.rs::no_algorithm_and_any_other_than_the_keys_own_is_refused",
            "src/credential/tests/attacks.rs::a_public_key_is_never_an_hmac_secret",
            "src/credential/tests/attacks.rs::header_members_that_change_how_a_token_is_read_are_refused",
            "src/credential/tests/attacks.rs::the_forge_makes_tokens_that_pass",
        ]),
    ),
    row(
        9,
        "times of a token that are no times",
        By(&[
            "tests/it/tokens.rs::claims_of_the_wrong_type_range_or_audience_are_refused",
            "src/rules/claims.rs::a_time_of_any_other_type_is_refused_and_never_taken_for_absent",
            "src/rules/claims.rs::good_claims_pass_and_unknown_ones_are_ignored",
            "src/credential/tests/keys.rs::every_algorithm_signs_and_verifies",
        ]),
    ),
    row(
        10,
        "a cache that takes one caller for another",
        By(&[
            "tests/it/threats.rs::callers_at_once_on_cold_caches_are_never_taken_for_each_other",
            "tests/it/all_products.rs::no_credential_of_one_product_is_anything_to_another_on_sqlite",
            "src/credential/tests/attacks.rs::a_token_counts_at_the_site_that_issued_it_and_nowhere_else",
            "src/credential/tests/attacks.rs::a_token_altered_anywhere_is_refused",
            "src/credential/tests/freshness.rs::facts_of_different_realms_do_not_mix",
        ]),
    ),
    row(
        11,
        "key sets fetched at a stranger's bidding",
        Absent(
            "The gateway verifies its own tokens with keys from its configuration and fetches no key set from anywhere: a \
             token with an unknown `kid` asks nobody (src/credential/tests/attacks.rs, a_key_is_found_by_its_exact_name_only).",
        ),
    ),
    row(
        12,
        "a revocation that counts late",
        By(&[
            "tests/it/soak.rs::under_load_and_faults_nobody_is_wrongly_let_in_and_nothing_fails_unexplained",
            "tests/it/tokens.rs::a_revoked_session_a_changed_role_and_a_disabled_account_count_from_the_next_request",
            "tests/it/fleet.rs::what_is_changed_at_one_gateway_counts_at_the_other_within_a_second",
            "tests/it/operator.rs::a_disabled_organization_passes_neither_by_token_nor_by_key",
        ]),
    ),
    row(
        13,
        "a session's end that leaves its refresh tokens alive",
        By(&[
            "src/store/tests/refresh.rs::a_refresh_and_a_logout_leave_no_token_that_counts",
            "src/store/tests/refresh.rs::a_refresh_token_counts_until_it_or_its_session_ends",
            "tests/it/races.rs::logout_against_refresh",
        ]),
    ),
    row(
        14,
        "two tabs that refresh at once",
        By(&[
            "tests/it/races.rs::twenty_tabs_refresh_one_token",
            "tests/it/races.rs::a_replay_within_the_grace_is_a_tab_and_from_its_end_on_a_thief",
            "src/store/tests/refresh.rs::twenty_refreshes_of_one_token_at_once_get_the_same_successor",
            "src/store/tests/refresh.rs::a_parent_is_replayed_within_the_grace_and_ends_the_family_at_its_end",
            "src/store/tests/refresh.rs::a_grandparent_ends_the_family_even_within_the_grace",
        ]),
    ),
    row(
        15,
        "a limit that lets more through",
        By(&[
            "src/rules/sliding_window.rs::twice_the_limit_never_passes_around_an_edge",
            "src/rules/sliding_window.rs::a_clock_that_steps_back_frees_nothing",
            "src/limit/tests/property.rs::no_trailing_window_holds_more_than_its_limit_and_capacity_is_at_most_a_sixtieth_late",
            "src/limit/tests/mod.rs::sixty_four_threads_racing_for_the_last_slot_get_one",
            "src/limit/tests/mod.rs::a_full_day_spends_nothing_of_the_minute_nor_of_anybody_else",
            "tests/it/limits.rs::sixty_four_requests_race_for_the_last_slot_and_one_wins",
        ]),
    ),
    row(
        16,
        "limit headers that mislead",
        By(&[
            "tests/it/limits.rs::headers_count_down_and_the_429_says_when_to_come_back",
            "tests/it/limits.rs::an_authenticated_answer_has_the_headers_also_when_it_is_a_refusal",
            "src/limit/tests/mod.rs::the_answer_says_to_the_millisecond_when_the_same_request_passes",
        ]),
    ),
    row(
        17,
        "made-up credentials that each count alone",
        By(&[
            "tests/it/floods.rs::forged_keys_from_an_address_over_its_bound_cost_no_look_up_and_leave_nothing_behind",
            "tests/it/tokens.rs::guessing_credentials_is_slowed_down_for_the_address_and_honest_tokens_still_pass",
            "src/limit/table.rs::a_flood_of_newcomers_never_costs_anybody_a_count",
            "src/credential/api_key.rs::whatever_is_changed_added_or_cut_off_is_refused_without_a_look_up",
        ]),
    ),
    row(
        18,
        "a limiter's store that is away",
        By(&[
            "src/limit/tests/faults.rs::without_redis_each_policy_does_what_its_name_says",
            "src/limit/tests/faults.rs::a_silent_redis_costs_one_timeout_a_pause_not_one_a_request",
            "src/limit/tests/faults.rs::redis_coming_back_is_found_by_one_and_used_by_all",
        ]),
    ),
    row(
        19,
        "an address that the client chose",
        By(&[
            "tests/it/limits.rs::a_forged_forwarded_for_neither_escapes_nor_locks_out_another",
            "src/rules/network.rs::a_stranger_cannot_speak_for_another_address",
            "src/rules/network.rs::a_trusted_proxy_names_the_client_and_what_the_client_wrote_is_ignored",
            "src/limit/subject.rs::an_ipv6_customer_is_one_subject_and_its_neighbour_another",
            "src/limit/subject.rs::an_ipv4_mapped_address_is_the_ipv4_address",
        ]),
    ),
    row(
        20,
        "a lockout by the name that was typed",
        By(&[
            "tests/it/limits.rs::ten_failed_sign_ins_close_the_account_for_a_while_under_every_spelling",
            "tests/it/enumeration.rs::a_lockout_looks_the_same_for_nobody_as_for_somebody_and_ends_with_the_window",
            "tests/it/doors.rs::parallel_guesses_are_counted_one_by_one",
            "src/rules/identity.rs::spellings_of_one_address_are_one_account",
        ]),
    ),
    row(
        21,
        "telling who has an account",
        By(&[
            "tests/it/enumeration.rs::a_sign_in_that_fails_looks_and_costs_the_same_whoever_it_names",
            "tests/it/enumeration.rs::asking_for_a_mail_tells_nothing",
            "src/credential/password.rs::an_unknown_account_takes_the_same_work_as_a_wrong_password",
        ]),
    ),
    row(
        22,
        "sign-ins that starve everybody else",
        By(&[
            "tests/it/floods.rs::sign_ins_from_everywhere_at_once_are_computed_a_few_at_a_time_and_proxied_requests_go_on",
            "src/credential/password.rs::abandoned_work_keeps_its_place_until_it_ends",
            "src/credential/password.rs::an_endless_password_is_refused_before_any_work",
            "src/credential/password.rs::hostile_or_broken_stored_hashes_are_refused_before_any_work",
        ]),
    ),
    row(
        23,
        "smuggled requests",
        By(&[
            "tests/it/smuggling.rs::two_framings_or_an_odd_one_are_no_request",
            "tests/it/smuggling.rs::chunks_are_what_the_rfc_says_or_the_backend_never_sees_an_end",
            "tests/it/smuggling.rs::no_protocol_is_switched_to_and_no_tunnel_opened_on_a_strangers_word",
            "tests/it/smuggling.rs::bytes_behind_an_upgrade_request_are_a_request_until_the_backend_has_agreed",
            "tests/it/smuggling.rs::trailers_of_a_client_stay_here_whatever_they_say",
            "tests/it/http2.rs::a_body_is_as_long_as_it_says_and_trailers_stay_here",
            "tests/it/http2.rs::pseudo_fields_stand_once_first_and_are_known",
        ]),
    ),
    row(
        24,
        "client certificates that are not asked for, by another name, a hello in pieces or another transport",
        // HTTP/3 is not served: whatever comes by UDP meets nobody, so there is no second transport to keep in step.
        By(&[
            "tests/it/client_hellos.rs::a_hello_in_pieces_chooses_what_a_whole_one_does",
            "tests/it/client_hellos.rs::a_name_asks_the_same_in_any_case",
            "tests/it/client_hellos.rs::a_request_passes_only_on_a_connection_that_was_asked_what_its_site_asks",
            "tests/it/client_hellos.rs::a_session_of_one_site_is_nothing_at_another_and_one_with_a_certificate_is_never_resumed",
            "tests/it/client_certificates.rs::a_missing_authority_is_a_reason_not_to_start_and_who_is_refused_stands_in_the_log",
            "tests/it/certificate_changes.rs::a_reload_counts_from_the_next_request_on_also_on_open_connections",
            "tests/it/client_certificates.rs::without_tls_a_site_that_requires_a_certificate_is_closed",
            "tests/it/client_certificates.rs::what_a_client_says_of_certificates_changes_nothing",
        ]),
    ),
    row(
        25,
        "hosts that are told apart by their case",
        By(&[
            "src/config/snapshot.rs::case_does_not_matter_with_one_host_or_with_hundreds",
            "src/config/snapshot.rs::a_host_is_found_whatever_its_case_port_or_last_dot",
        ]),
    ),
    row(
        26,
        "a secret that is not there and lets everybody in",
        By(&[
            "tests/it/serve.rs::a_weak_missing_or_shared_secret_is_a_reason_not_to_start",
            "src/config/env.rs::a_missing_variable_is_an_error_and_never_an_empty_secret",
            "src/config/tests.rs::every_bad_file_says_what_its_text_says",
            "src/config/ready_tests.rs::without_its_secret_or_with_the_sample_of_its_document_nothing_starts",
        ]),
    ),
    row(
        27,
        "WebSockets that outlive what let them in, and first messages of every kind",
        By(&[
            "tests/it/tunnels.rs::a_session_that_ends_ends_its_websocket",
            "tests/it/tunnels.rs::a_token_that_expires_ends_its_websocket",
            "tests/it/agents.rs::an_agent_is_closed_within_a_second_of_its_keys_end",
            "tests/it/agents.rs::a_first_message_may_come_in_pieces_with_pings_between_them",
            "tests/it/agents.rs::what_is_no_first_message_is_told_so_and_never_reaches_the_backend",
            "tests/it/agents.rs::an_agent_that_takes_too_long_is_told_and_let_go",
            "tests/it/agents.rs::no_subprotocol_is_agreed_on_and_none_is_offered_on",
        ]),
    ),
    row(
        28,
        "a path or a User-Agent that skips the credential",
        By(&[
            "tests/it/threats.rs::no_probes_path_and_no_user_agent_passes_without_a_credential",
            "tests/it/operator.rs::health_readiness_and_metrics_are_on_the_admin_listener_alone",
        ]),
    ),
    row(
        29,
        "credentials in logs and answers",
        By(&[
            "tests/it/threats.rs::no_line_of_the_log_and_no_refusal_holds_a_credential",
            "tests/it/otlp.rs::no_span_holds_a_credential_a_cookie_a_query_or_an_address_of_a_person",
            "src/observe/mask.rs::what_looks_like_a_credential_is_starred_out",
            "src/observe/tests.rs::what_a_client_sends_makes_one_line_and_no_terminal_move",
            "src/credential/presented.rs::a_credential_is_never_shown",
        ]),
    ),
    row(
        30,
        "a rotated key that lives on",
        By(&[
            "src/store/tests/api_keys.rs::a_rotated_key_ends_with_the_overlap_or_by_itself_whichever_is_first",
            "src/store/tests/api_keys.rs::a_key_cannot_be_rotated_once_its_revocation_was_acknowledged",
            "src/credential/tests/principals.rs::a_rotated_key_works_beside_its_successor_until_its_deadline",
            "src/credential/tests/principals.rs::a_key_ends_at_its_expiry_to_the_millisecond_though_it_is_remembered",
            "tests/it/access.rs::keys_are_listed_read_rotated_and_revoked",
        ]),
    ),
    row(
        31,
        "preflights and OPTIONS that skip the credential",
        By(&[
            "tests/it/threats.rs::options_is_a_request_like_any_other",
            "tests/it/cors.rs::a_preflight_is_answered_without_a_credential_and_reaches_nobody",
            "tests/it/cors.rs::options_that_is_no_preflight_is_a_request_like_any_other",
            "tests/it/cors.rs::refusals_can_be_read_by_the_page_that_asked",
        ]),
    ),
    row(
        32,
        "gRPC refusals that are no gRPC",
        By(&[
            "tests/it/upstreams.rs::a_refused_grpc_call_is_told_so_in_its_own_words",
            "tests/it/upstreams.rs::a_grpc_call_streams_both_ways_and_ends_with_the_backends_trailers",
        ]),
    ),
    row(
        33,
        "a reload that loses or keeps too much",
        By(&[
            "tests/it/reload.rs::under_load_files_change_and_no_request_notices_but_those_it_is_meant_for",
            "tests/it/reload.rs::a_broken_include_keeps_the_old_configuration_and_mending_it_is_enough",
            "tests/it/reload.rs::a_key_a_secret_file_a_contract_and_the_operators_token_count_from_the_change_on",
        ]),
    ),
    row(
        34,
        "floods of HTTP/2 frames",
        By(&[
            "tests/it/floods.rs::floods_of_frames_are_cut_or_cost_nothing_and_honest_clients_are_served",
            "tests/it/threats.rs::the_library_that_reads_frames_is_one_without_known_holes",
            "tests/it/pace.rs::an_http2_stream_whose_window_stays_shut_is_reset_and_the_others_go_on",
        ]),
    ),
    row(
        35,
        "a write for every use of a key",
        By(&[
            "src/credential/tests/principals.rs::a_hot_keys_last_use_is_written_at_most_once_a_minute",
            "src/credential/tests/outage.rs::last_uses_that_could_not_be_written_wait_for_the_next_time",
            "tests/it/threats.rs::a_keys_last_use_is_there_after_the_gateway_has_ended",
        ]),
    ),
];

#[test]
fn every_row_names_tests_that_are_there_or_says_why_there_is_none() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let numbers: Vec<usize> = ROWS.iter().map(|row| row.number).collect();
    assert_eq!(numbers, (1..=35).collect::<Vec<_>>());
    for Row { number, threat, shown } in ROWS {
        match shown {
            Absent(why) => assert!(why.len() > 60 && why.ends_with('.'), "{number} ({threat}): {why}"),
            By(tests) => {
                assert!(!tests.is_empty(), "{number} ({threat})");
                for test in *tests {
                    let (file, name) = test.split_once("::").expect("file::name");
                    let text =
                        std::fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
                    let is_there = text.contains(&format!("fn {name}(")) || text.contains(&format!("fn {name}<"));
                    assert!(is_there, "{number} ({threat}): there is no {name} in {file}");
                }
            }
        }
    }
}

#[test]
fn the_library_that_reads_frames_is_one_without_known_holes() {
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).expect("Cargo.lock");
    let mut found = 0;
    for package in lock.split("[[package]]").filter(|package| package.contains("\nname = \"h2\"\n")) {
        let version = package.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
        let parts: Vec<u32> =
            version.expect("a version").split('.').map(|part| part.parse().expect("a number")).collect();
        // RUSTSEC-2026-0258 and all before it.
        assert!(parts.as_slice() >= &[0, 4, 16][..], "{version:?}");
        found += 1;
    }
    assert_eq!(found, 1, "one h2, and no older one beside it");
}

#[tokio::test]
async fn what_a_stranger_says_of_its_way_here_changes_neither_the_decision_nor_the_request() {
    let routes = "[[site.route]]\nmatch = \"GET /open/{*rest}\"\npublic = true\nupstream = \"app\"\n\
                  [[site.route]]\nmatch = \"* /api/v1/{*rest}\"\nupstream = \"app\"\n";
    let gate = Setup::default().routes(routes).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let lies = [
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Host", "evil.example"),
        ("X-Forwarded-Port", "1"),
        ("X-Forwarded-Prefix", "/open"),
        ("X-Forwarded-Uri", "/open/x"),
        ("X-Forwarded-Method", "DELETE"),
        ("Forwarded", "for=10.0.0.1;host=evil.example;proto=http"),
        ("X-Original-URL", "/open/x"),
        ("X-Original-URI", "/open/x"),
        ("X-Rewrite-URL", "/open/x"),
        ("X-Envoy-Original-Path", "/open/x"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-Real-IP", "10.0.0.1"),
        ("X-Host", "evil.example"),
        ("X-Scheme", "http"),
        ("Front-End-Https", "off"),
    ];
    let with = |path: &'static str, token: Option<&str>| {
        let mut ask = gate.client.get(path);
        for (name, value) in lies {
            ask = ask.header(name, value);
        }
        match token {
            Some(token) => ask.bearer(token).send(),
            None => ask.send(),
        }
    };
    assert_eq!(with("/api/v1/posts", None).await.status, 401, "what is asked for is not public");
    for (path, token) in [("/api/v1/posts", Some(token.as_str())), ("/open/x", None)] {
        let ask = gate.client.get(path);
        let honest = match token {
            Some(token) => ask.bearer(token).send().await,
            None => ask.send().await,
        };
        assert_eq!(honest.status, 200);
        let mut usual = gate.backend.last();
        assert_eq!(with(path, token).await.status, 200);
        let mut told = gate.backend.last();
        for seen in [&mut usual, &mut told] {
            seen.headers.retain(|(name, _)| name != "x-request-id");
            seen.headers.sort();
        }
        assert_eq!((usual.path, usual.method, usual.headers), (told.path, told.method, told.headers));
    }
}

#[tokio::test]
async fn callers_at_once_on_cold_caches_are_never_taken_for_each_other() {
    let gate = Arc::new(Gate::start().await);
    let mut callers = Vec::new();
    for name in ["ada", "bob", "eve"] {
        let email = format!("{name}@example.com");
        let token = gate.signed_in(&email).await;
        let (key, _) = gate.api_key(&token, &["read:*"]).await;
        callers.push((name, format!("Bearer {token}")));
        callers.push((name, format!("ApiKey {key}")));
    }
    let mut tasks = JoinSet::new();
    for at in 0..60 {
        let (gate, (name, credential)) = (Arc::clone(&gate), callers[at % callers.len()].clone());
        tasks.spawn(async move {
            let path = format!("/api/v1/{name}/{at}");
            let answer = gate.client.get(&path).header("authorization", credential).send().await;
            assert_eq!(answer.status, 200, "{}", answer.text());
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("each is let in");
    }
    let seen = gate.backend.seen();
    assert_eq!(seen.len(), 60);
    for seen in seen {
        let name = seen.path.split('/').nth(3).expect("the caller's own path");
        assert_eq!(seen.one("x-user-email"), Some(format!("{name}@example.com").as_str()), "{}", seen.path);
    }
}

#[tokio::test]
async fn no_probes_path_and_no_user_agent_passes_without_a_credential() {
    let routes = "[[site.route]]\nmatch = \"* /{*rest}\"\nupstream = \"app\"\n";
    let gate = Setup::default().routes(routes).start().await.expect("SQLite");
    let token = gate.signed_in("ada@example.com").await;
    let agents = ["kube-probe/1.31", "GoogleHC/1.0", "ELB-HealthChecker/2.0", "Prometheus/3.0", "Envoy/HC", ""];
    for path in ["/", "/metrics", "/healthz", "/readyz", "/health", "/ping", "/ready", "/v1/sites", "/v1/log", "/debug"]
    {
        for agent in agents {
            for method in ["GET", "HEAD"] {
                let answer = gate.client.ask(method, path).header("user-agent", agent).send().await;
                assert_eq!(answer.status, 401, "{method} {path} as {agent:?}");
            }
        }
    }
    assert_eq!(gate.backend.count(), 0);
    let answer = gate.client.get("/healthz").header("user-agent", agents[0]).bearer(&token).send().await;
    assert_eq!(answer.status, 200, "the backend's own page, for whoever may see it");
    assert_eq!(gate.backend.last().path, "/healthz");
}

#[tokio::test]
async fn options_is_a_request_like_any_other() {
    let gate = Gate::start().await;
    let token = gate.signed_in("ada@example.com").await;
    let ask = || gate.client.ask("OPTIONS", "/api/v1/posts");
    assert_eq!(ask().send().await.status, 401);
    assert_eq!(ask().header("origin", "https://evil.example").send().await.status, 401, "without a method it asks for");
    assert_eq!(gate.backend.count(), 0);
    assert_eq!(ask().bearer(&token).send().await.status, 200);
    assert_eq!(gate.backend.last().method, "OPTIONS");
}

#[tokio::test]
async fn no_line_of_the_log_and_no_refusal_holds_a_credential() {
    let backend = Backend::start().await;
    let home = Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top: "", site: "" });
    let mut command = home.serve();
    command.env("TOLLGATE__LOG__ACCESS", "true").env("TOLLGATE__LOG__LEVEL", "trace");
    let served = home.start_as(command).await;
    let client = &served.http;
    let account = json!({ "email": "ada@example.com", "password": "hunter2-hunter2-hunter2", "name": "Ada" });
    assert_eq!(client.post("/api/v1/auth/register", &account).send().await.status, 201);
    let token = client.post("/api/v1/auth/login", &account).send().await.string("/access_token");
    let wanted = json!({ "name": "k", "permissions": ["read:posts"] });
    let key = client.post("/api/v1/api-keys", &wanted).bearer(&token).send().await.string("/key");
    let (signed, signature) = token.rsplit_once('.').expect("a token");
    let forged = format!("{signed}.{}", signature.chars().rev().collect::<String>());
    let wrong = json!({ "email": "ada@example.com", "password": "a-wrong-pass-phrase" });
    let mut answers = vec![client.post("/api/v1/auth/login", &wrong).send().await];
    for credential in [
        format!("Bearer {token}"),
        format!("ApiKey {key}"),
        format!("Bearer {forged}"),
        format!("ApiKey {key}x"),
        format!("Bearer {key}"),
        "Basic YWRhOmh1bnRlcjI=".to_owned(),
    ] {
        for path in ["/api/v1/posts?api_key=in-the-query-7f3a", "/api/v1/auth/none", "/api/v1/../x"] {
            let ask = client.get(path).header("authorization", &credential).header("cookie", "sid=in-the-cookie-91bc");
            answers.push(ask.send().await);
        }
    }
    assert!(answers.iter().filter(|answer| answer.status == 200).count() >= 2, "honest requests among them");
    let told: Vec<String> = answers.iter().map(|answer| format!("{:?}{}", answer.headers, answer.text())).collect();
    let told = told.concat();
    let ended = served.process.stop().await;
    let log = format!("{}{}", ended.out, ended.err);
    assert!(log.matches("\"kind\":\"access\"").count() >= answers.len(), "the log is there: {log}");
    for secret in [
        signature,
        &forged,
        &key,
        "hunter2",
        "a-wrong-pass-phrase",
        "in-the-query-7f3a",
        "in-the-cookie-91bc",
        "YWRhOmh1bnRlcjI",
    ] {
        assert!(!log.contains(secret), "{secret} is in the log");
        // The backend repeats the path that it was asked for; nobody else does.
        assert!(secret == "in-the-query-7f3a" || !told.contains(secret), "{secret} is in an answer");
    }
}

#[tokio::test]
async fn a_keys_last_use_is_there_after_the_gateway_has_ended() {
    let backend = Backend::start().await;
    let home = Home::new(&Plan { postgres: None, backend: &backend.url(), store: "", top: "", site: "" });
    let served = home.start().await;
    let account = json!({ "email": "ada@example.com", "password": "correct horse battery", "name": "Ada" });
    assert_eq!(served.http.post("/api/v1/auth/register", &account).send().await.status, 201);
    let token = served.http.post("/api/v1/auth/login", &account).send().await.string("/access_token");
    let mut ids = Vec::new();
    for used in [true, false] {
        let wanted = json!({ "name": "k", "permissions": ["read:posts"] });
        let made = served.http.post("/api/v1/api-keys", &wanted).bearer(&token).send().await;
        for _ in 0..if used { 5 } else { 0 } {
            assert_eq!(served.http.get("/api/v1/posts").api_key(&made.string("/key")).send().await.status, 200);
        }
        ids.push(made.string("/id"));
    }
    served.process.stop().await.good();
    let served = home.start().await;
    for (id, used) in ids.iter().zip([true, false]) {
        let shown = served.http.get(&format!("/api/v1/api-keys/{id}")).bearer(&token).send().await;
        assert_eq!(shown.status, 200, "{}", shown.text());
        assert_eq!(shown.json()["last_used_at"].is_string(), used, "{}", shown.text());
    }
    served.process.stop().await.good();
}
