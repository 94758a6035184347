from langgraph.api import AuthAPI

api = AuthAPI(api_key="your-api-key")

# Register user
user = api.register({
    "email": "user@example.com",
    "password": "secure_password",
    "name": "John Doe",
    "organization": "Example Corp"
})

# Login
auth = api.login({
    "email": "user@example.com",
    "password": "secure_password",
    "device_info": {
        "device_id": "device123",
        "platform": "web",
        "browser": "chrome"
    }
})

# Get profile
profile = api.get_profile()
