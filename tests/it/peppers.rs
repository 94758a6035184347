//! A pepper that is gone, or another: nothing that is kept under it is given up without a word.

use std::path::Path;

use serde_json::json;
use sqlx::{Connection, Executor};

use super::backend::Backend;
use super::files::made_at_start;
use super::process::{Home, Served, told};
use super::reload::{POSTS, WATCH, edit, home, signed_in, until};

const PEPPER: &str = "pepper = \"";

/// Has somebody make an API key.
async fn key(served: &Served) -> String {
    let token = signed_in(&served.http, "ada@example.com").await;
    let asked = json!({ "name": "k", "permissions": ["read:*"] });
    served.http.post("/api/v1/api-keys", &asked).bearer(&token).send().await.string("/key")
}

async fn status(served: &Served, key: &str) -> u16 {
    served.http.get(POSTS).api_key(key).send().await.status.as_u16()
}

/// Why it does not start.
async fn refused(home: &Home) -> String {
    told(home.folder.path(), &["serve", "--config", "gateway.toml"]).await.bad(1)
}

/// As if the store were of a version that remembered nothing.
async fn from_before(folder: &Path) {
    let url = format!("sqlite://{}/data/tollgate.db", folder.display());
    let mut store = sqlx::SqliteConnection::connect(&url).await.expect("the store");
    let forgotten = store.execute("DELETE FROM peppers").await.expect("a table");
    assert_eq!(forgotten.rows_affected(), 1, "it was remembered");
    store.close().await.expect("a clean goodbye");
}

#[tokio::test]
async fn a_pepper_that_is_gone_is_made_anew_only_where_nothing_was_under_it() {
    let backend = Backend::start().await;
    let home = made_at_start(&backend);
    let folder = home.folder.path();
    let file = folder.join("data/secrets/pepper-vantage");
    let read = || std::fs::read_to_string(&file).expect("it was made");
    // A start that comes to nothing leaves none behind for the next one to believe.
    std::fs::create_dir_all(folder.join("data/tollgate.db")).expect("no place for a store");
    refused(&home).await;
    assert!(!file.exists() && file.parent().expect("its folder").exists(), "it was made, and taken away again");
    std::fs::remove_dir(folder.join("data/tollgate.db")).expect("it was there");
    // Nobody has anything yet.
    home.start().await.process.stop().await.good();
    let first = read();
    std::fs::remove_file(&file).expect("it was there");
    let served = home.start().await;
    let own = key(&served).await;
    served.process.stop().await.good();
    let second = read();
    assert_ne!(first, second, "an empty store takes another");

    std::fs::remove_file(&file).expect("it was there");
    // Also by a store that remembers nothing, and again and again.
    for before in [false, true, true] {
        let error = refused(&home).await;
        let wanted = "the pepper of site `vantage` is gone (data/secrets/pepper-vantage), and the store has API keys";
        assert!(error.contains(wanted) && error.contains("forget-pepper --site vantage"), "{error}");
        assert!(!file.exists(), "no other is left in its place");
        if !before {
            from_before(folder).await;
        }
    }
    std::fs::write(&file, &second).expect("a file");
    let served = home.start().await;
    assert_eq!(status(&served, &own).await, 200);
    served.process.stop().await.good();

    // Lost for good, and said so.
    std::fs::remove_file(&file).expect("it was there");
    let said = told(folder, &["secrets", "forget-pepper", "--config", "gateway.toml"]).await.good();
    assert!(said.starts_with("site `vantage` starts with the pepper that it finds next"), "{said}");
    let served = home.start().await;
    assert_eq!(status(&served, &own).await, 401);
    let other = key(&served).await;
    assert_eq!(status(&served, &other).await, 200);
    served.process.stop().await.good();
    std::fs::write(&file, &second).expect("a file");
    let error = refused(&home).await;
    assert!(error.contains("under another pepper of site `vantage` than the one in data/secrets/pepper"), "{error}");
    assert_eq!(read(), second, "what was there stays");
}

#[tokio::test]
async fn another_pepper_is_none_at_a_start_nor_at_a_reload() {
    let backend = Backend::start().await;
    let home = home(&backend, WATCH, "");
    let served = home.start().await;
    let own = key(&served).await;
    edit(&home, "gateway.toml", PEPPER, "pepper = \"x");
    until(&served, "tollgate_config_last_reload_successful", 0.0).await;
    assert_eq!(status(&served, &own).await, 200, "the one before stays");
    let out = served.process.stop().await.good();
    assert!(out.contains("the pepper of site `vantage` is another:"), "{out}");
    let error = refused(&home).await;
    assert!(error.contains("the store has API keys under another pepper of site `vantage` than this one"), "{error}");
    edit(&home, "gateway.toml", "pepper = \"x", PEPPER);
    // A store of a version that remembered nothing goes on, and remembers.
    from_before(home.folder.path()).await;
    let served = home.start().await;
    assert_eq!(status(&served, &own).await, 200);
    served.process.stop().await.good();
    edit(&home, "gateway.toml", PEPPER, "pepper = \"x");
    assert!(refused(&home).await.contains("under another pepper"));
}

#[tokio::test]
async fn a_site_that_comes_back_at_a_reload_without_its_pepper_is_not_taken() {
    let backend = Backend::start().await;
    let home = made_at_start(&backend);
    let folder = home.folder.path();
    let served = home.start().await;
    let own = key(&served).await;
    let file = folder.join("data/secrets/pepper-vantage");
    let secret = std::fs::read_to_string(&file).expect("it was made");
    // Another realm in its place, for a while.
    let named = "contract = \"vantage\"\nname = \"new\"\nrealm = \"new\"";
    edit(&home, "gateway.toml", "contract = \"vantage\"", named);
    until(&served, "tollgate_config_reloads_total{outcome=\"ok\"}", 2.0).await;
    assert_eq!(status(&served, &own).await, 401);
    std::fs::remove_file(&file).expect("it was there");
    edit(&home, "gateway.toml", named, "contract = \"vantage\"");
    until(&served, "tollgate_config_last_reload_successful", 0.0).await;
    assert!(!file.exists());
    std::fs::write(&file, &secret).expect("a file");
    served.process.signal("HUP").await;
    until(&served, "tollgate_config_last_reload_successful", 1.0).await;
    assert_eq!(status(&served, &own).await, 200);
    let out = served.process.stop().await.good();
    assert!(out.contains("the pepper of site `vantage` is gone"), "{out}");
}
