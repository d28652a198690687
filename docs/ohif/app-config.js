// OHIF beside DICOM Network: put this in place of OHIF's own app-config.js, with central's address in the next line.
const central = 'https://central.example';

// Who looks is who made the API token (in the portal: Tokens, for searching and looking). It is asked for once a tab,
// and stands in no address, no file and no log.
function token() {
  const kept = sessionStorage.getItem('dicomnet-token');
  const said = kept ?? window.prompt('Your API token of DICOM Network');
  if (said && !kept) sessionStorage.setItem('dicomnet-token', said.trim());
  return said?.trim() ?? '';
}

window.config = {
  routerBasename: '/',
  extensions: [
    {
      id: 'dicomnet-token',
      preRegistration({ servicesManager }) {
        servicesManager.services.userAuthenticationService.setServiceImplementation({
          getAuthorizationHeader: () => ({ Authorization: `Bearer ${token()}` }),
        });
      },
    },
  ],
  modes: [],
  showStudyList: true,
  showErrorDetails: 'always',
  defaultDataSourceName: 'dicomnet',
  dataSources: [
    {
      namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
      sourceName: 'dicomnet',
      configuration: {
        friendlyName: 'DICOM Network',
        name: 'dicomnet',
        qidoRoot: `${central}/dicom-web`,
        wadoRoot: `${central}/dicom-web`,
        wadoUriRoot: `${central}/dicom-web/wado`,
        qidoSupportsIncludeField: true,
        supportsFuzzyMatching: true,
        supportsWildcard: true,
        imageRendering: 'wadors',
        thumbnailRendering: 'thumbnail',
        thumbnailRequestStrategy: 'fetch',
        enableStudyLazyLoad: true,
        singlepart: 'bulkdata',
        bulkDataURI: { enabled: true },
        omitQuotationForMultipartRequest: true,
      },
    },
  ],
  httpErrorHandler: error => {
    if (error.status === 401) sessionStorage.removeItem('dicomnet-token'); // ended, or mistyped: ask again
  },
};
