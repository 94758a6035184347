//! The products' pages, played against the gateway.

use super::harness::{Database, Setup};
use super::transcript;

const VANTAGE: &str = include_str!("../contracts/vantage/page.transcript");

#[tokio::test]
async fn the_vantage_page_is_served_byte_for_byte_on_sqlite() {
    let gate = Setup::default().database(Database::Sqlite).start().await.expect("SQLite is always there");
    transcript::play(&gate.client, VANTAGE).await;
}

#[tokio::test]
async fn the_vantage_page_is_served_byte_for_byte_on_postgresql() {
    let Some(gate) = Setup::default().database(Database::Postgres).start().await else { return };
    transcript::play(&gate.client, VANTAGE).await;
}
