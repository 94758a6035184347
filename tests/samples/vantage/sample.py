import requests

# Login
response = requests.post('https://api.vantageai.com/api/v1/auth/login', json={
    'email': 'user@example.com',
    'password': 'secure_password'
})

token = response.json()['access_token']

# Make authenticated requests
headers = {'Authorization': f'Bearer {token}'}
response = requests.get('https://api.vantageai.com/api/v1/posts', headers=headers)
