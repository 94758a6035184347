const { AuthAPI } = require('langgraph');

const api = new AuthAPI('your-api-key');

// Register user
const user = await api.register({
    email: 'user@example.com',
    password: 'secure_password',
    name: 'John Doe',
    organization: 'Example Corp'
});

// Login
const auth = await api.login({
    email: 'user@example.com',
    password: 'secure_password',
    device_info: {
        device_id: 'device123',
        platform: 'web',
        browser: 'chrome'
    }
});

// Get profile
const profile = await api.get_profile();
