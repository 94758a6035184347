import requests

token = 'eyJhbGciOiJIUzI1NiIs...'

response = requests.get(
    'https://api.stackaudit.ai/v1/audits',
    headers={
        'Content-Type': 'application/json',
        'Authorization': f'Bearer {token}'
    }
)

audits = response.json()['audits']
