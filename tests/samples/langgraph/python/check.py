
assert list(user) == ["user_id", "email", "name", "organization", "subscription_plan", "created_at"], user
assert (user["email"], user["organization"], user["subscription_plan"]) == ("user@example.com", "Example Corp", "free")
assert list(auth) == ["access_token", "refresh_token", "expires_in", "token_type", "user"], list(auth)
assert auth["user"]["id"] == user["user_id"], auth["user"]
# The key says whose profile it is.
assert profile["email"] == "owner@example.com" and profile["email_verified"] is False, profile
